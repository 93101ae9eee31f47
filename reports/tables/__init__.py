"""Rankings → LaTeX, CSV and Markdown, and the tables of the paper."""
