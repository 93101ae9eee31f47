"""Anomaly detection methods: one file per method or family."""
