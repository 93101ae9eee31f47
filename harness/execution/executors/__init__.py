"""Where runs execute: one module for each executor, and what they have in common in ``protocol``."""
