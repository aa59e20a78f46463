"""The CPU: how many cores and threads a process may use, and what it is called."""

import os
import platform
from contextlib import suppress
from pathlib import Path


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_allowed() -> int:
    """Return the number of threads to compute with: the user's or the Slurm job's, else one per available core."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        given = os.environ.get(name, "")
        if given.isdecimal() and int(given) > 0:
            return min(int(given), available_cores()) if name.startswith("SLURM") else int(given)
    return available_cores()


def processor() -> str:
    """Return the CPU's model name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
