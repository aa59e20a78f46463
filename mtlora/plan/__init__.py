"""From an experiment to its cells: identity, state and cost. Nothing here imports torch."""
