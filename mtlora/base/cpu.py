"""The cores, threads and memory that a process may use, and the name of the CPU."""

import math
import os
import platform
from contextlib import suppress
from pathlib import Path

import psutil

from mtlora.base.cgroup import cpu_limit, memory_left


def available_cores() -> int:
    """Return the number of cores that this process may use: its affinity, limited by the quota of its container (rounded up)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(affinity, cpu_limit())))


def available_memory() -> int:
    """Return the bytes that this process can still allocate: the free memory of the machine, limited by its container."""
    return int(min(psutil.virtual_memory().available, memory_left()))


def threads_allowed() -> int:
    """Return the number of threads to compute with: as set by the user or the Slurm job, else one per available core."""
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
