"""From an experiment to its cells, their identity, state and cost. Nothing here imports torch."""
