"""The report: one page with verdicts, tables and figures."""
