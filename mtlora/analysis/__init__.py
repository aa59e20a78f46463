"""From records to tables, statistics, figures and verdicts."""
