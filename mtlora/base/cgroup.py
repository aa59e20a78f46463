"""The limits that Linux control groups (versions 1 and 2) set for this process, as containers and batch systems use them.

A limit may be set for the group of the process or for any group above it, so all of them are read. In a container the folder of
the group may be missing; the top folder is then that of the container. Sources: the Linux kernel's documentation,
admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/memory.rst and scheduler/sched-bwc.rst.
"""

import math
from collections.abc import Iterator
from pathlib import Path


def cpu_limit(root: Path = Path("/")) -> float:
    """Return the CPU time that the process may use, in cores; infinity without a limit. Tests pass another `root`."""
    limits = [math.inf]
    for folder in _folders("cpu", root):
        words = _words(folder, "cpu.max") or _words(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")
        if len(words) == 2 and words[0].isdecimal():  # "max" and "-1" mean no limit
            limits.append(int(words[0]) / int(words[1]))
    return min(limits)


def memory_left(root: Path = Path("/")) -> float:
    """Return the bytes that the process may still allocate; infinity without a limit. Tests pass another `root`.

    The usage of a group includes cached files; the kernel frees the inactive ones when memory is short.
    """
    left = [math.inf]
    for folder in _folders("memory", root):
        words = _words(folder, "memory.max", "memory.current") or _words(
            folder, "memory.limit_in_bytes", "memory.usage_in_bytes"
        )
        if len(words) == 2 and words[0].isdecimal():  # "max" means no limit, as does a huge number in version 1
            pairs = _words(folder, "memory.stat")
            statistics = dict(zip(pairs[::2], pairs[1::2], strict=True))
            cached = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
            left.append(int(words[0]) - int(words[1]) + int(cached))
    return max(0, min(left))


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups in version 2 and in the controller's hierarchy, from its own group to the top."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _words(folder: Path, *names: str) -> list[str]:
    """Return the words of files, one file after another; an unreadable file has none."""
    return [word for name in names for word in _read(folder / name).split()]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
