"""Tasks are data (`conf/task/`); the code here reads their sources, tokenises them once and cuts them into batches."""
