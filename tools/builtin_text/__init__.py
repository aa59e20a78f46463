"""The generator of the built-in data: `python -m tools.builtin_text` writes it into the package, `--check` compares."""
