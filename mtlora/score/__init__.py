"""The metrics, and the treatment of texts before they are scored."""
