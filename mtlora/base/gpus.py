"""The GPUs that this process may use, found without PyTorch, whose CUDA context would take memory on a GPU."""

import os
import subprocess

QUERY = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")


def visible_gpus() -> list[str]:
    """Return the names of the GPUs for CUDA_VISIBLE_DEVICES: those that it has, else all of this machine; empty without GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        try:
            given = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=10).stdout.replace(
                "\n", ","
            )
        except (OSError, subprocess.SubprocessError):  # no driver, no GPU, or a driver that hangs
            return []
    return [name for part in given.split(",") if (name := part.strip())]
