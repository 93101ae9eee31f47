"""Rankings and kept maps → figures for print, by matplotlib."""
