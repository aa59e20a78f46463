"""From records to statistics and tables."""
