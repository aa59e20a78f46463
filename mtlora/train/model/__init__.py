"""Backbone, head and adapter."""
