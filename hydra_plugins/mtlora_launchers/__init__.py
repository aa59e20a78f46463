"""Hydra plugins of mtlora; Hydra accepts such classes only below the namespace package hydra_plugins."""
