"""Hydra plugins of mtlora; Hydra finds such classes only in the namespace package hydra_plugins."""
