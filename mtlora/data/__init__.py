"""The rows of a task: how they are read, tokenised and put into batches."""
