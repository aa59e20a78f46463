"""The generator of the built-in data: `python -m tools.builtin_text` writes the data into the package."""
