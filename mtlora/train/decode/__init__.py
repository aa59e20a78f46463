"""Beam search, and the texts of a data-to-text run."""
