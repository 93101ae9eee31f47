"""anomalib's models behind our interface: driven directly, without its Engine, callbacks or validation."""
