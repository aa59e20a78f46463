"""Cohorts: runs that share task, model and batch shape, trained in lock-step on one frozen backbone.

Each run keeps a model, the state of an optimizer, a checkpoint and a record of its own. The runs share the forward and backward
pass of each step, in which the batches of all runs form one batch, and one AdamW updates all of them. `step` is the optimizer
step, `network` and `layers` are the shared model, `optimizer` is that AdamW, `fit` limits the size of a cohort by memory and
speed, `grouping` forms the cohorts of a sweep.
"""
