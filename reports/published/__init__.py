"""Numbers of papers: the data, beside measured ones, and whether they agree among themselves."""
