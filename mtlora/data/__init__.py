"""A task's rows: where they come from, how they are tokenised, how they become batches."""
