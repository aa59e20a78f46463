"""The metrics: which text treatment, which numbers."""
