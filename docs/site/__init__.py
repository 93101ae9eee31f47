"""What the documentation's site is made of beside its pages; see zensical.toml."""
