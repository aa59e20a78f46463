"""Cohorts: runs that share task, model and batch shape, trained in lock-step on one frozen backbone.

Each run stays an ordinary run: a model, an optimizer, a checkpoint and a record of its own. What they share is the forward and
backward pass of each step, in which the batches of all runs are one batch.
"""
