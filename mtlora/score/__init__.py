"""The metrics: how texts are treated before they are scored, and how each metric is computed."""
