"""The record of a run, its provenance and its predictions."""
