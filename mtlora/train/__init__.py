"""Training: from a cell to its record.

The life of a run, in the order of the calls:

- `command`, `sweep`, `worker`: the command line, and the child processes in which sweeps train
- `execution`: locks cells, skips those that are finished, trains the others (alone or in a cohort), and reports each outcome
- `lifecycle`: the stages around the training of a run: begin, prepare, complete, end
- `run`: `Run`, the model, data, optimizer and progress of one run
- `loop`: the training itself; start here

`loop` uses `batches`, `objectives`, `optimizer`, `evaluation` and `state` (the checkpoint); `lifecycle` uses `data`, `model`,
`decode`, `results` and `tracking`. `cohort` trains several runs in lock-step.
"""
