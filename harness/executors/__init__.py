"""Where runs execute: one module per executor."""
