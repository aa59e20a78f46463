"""Statistics and tables from records."""
