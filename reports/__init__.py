"""From records to pages: one tidy table, and HTML, LaTeX and CSV made from it. No torch in here."""
