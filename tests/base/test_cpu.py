"""The cores and the memory that a container leaves to a process, read from made-up files of control groups."""

import os
from pathlib import Path

import psutil
import pytest

from mtlora.base import cgroup, cpu

GB = 2**30
NO_LIMIT = "9223372036854771712"  # of version 1: the largest multiple of a page


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


CPU = {
    "version 2, container": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    "version 2, a fraction": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    "version 2, no limit": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, float("inf")),
    "version 2, a group above": (
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0",
            "sys/fs/cgroup/slurm/job_7/step_0/cpu.max": "max 100000",
            "sys/fs/cgroup/slurm/job_7/cpu.max": "300000 100000",
            "sys/fs/cgroup/slurm/cpu.max": "6400000 100000",
        },
        3,
    ),
    "version 1, container": (
        {
            "proc/self/cgroup": "5:memory:/docker/4f\n4:cpu,cpuacct:/docker/4f\n1:name=systemd:/docker/4f",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        2.5,
    ),
    "version 1, own group": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/docker/4f\n0::/init.scope",
            "sys/fs/cgroup/cpu/docker/4f/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/docker/4f/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        float("inf"),
    ),
    "the limit of a group of others": (
        {"proc/self/cgroup": "0::/mine", "sys/fs/cgroup/other/cpu.max": "100000 100000"},
        float("inf"),
    ),
    "no control groups": ({}, float("inf")),
}


@pytest.mark.parametrize("name", CPU)
def test_cpu_limit(name: str, tmp_path: Path) -> None:
    files, expected = CPU[name]
    assert cgroup.cpu_limit(write(tmp_path, files)) == expected


MEMORY = {
    "version 2, container": (
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": str(4 * GB),
            "sys/fs/cgroup/memory.current": str(3 * GB),
            "sys/fs/cgroup/memory.stat": f"anon 1\nfile {2 * GB}\ninactive_file {GB}",
        },
        2 * GB,
    ),
    "version 2, no limit": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": str(GB)},
        float("inf"),
    ),
    "version 2, a group above": (
        {
            "proc/self/cgroup": "0::/job/step",
            "sys/fs/cgroup/job/step/memory.max": "max",
            "sys/fs/cgroup/job/step/memory.current": str(GB),
            "sys/fs/cgroup/job/memory.max": str(8 * GB),
            "sys/fs/cgroup/job/memory.current": str(2 * GB),
        },
        6 * GB,
    ),
    "version 1, container": (
        {
            "proc/self/cgroup": "4:memory:/docker/4f\n3:cpu:/docker/4f",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GB),
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GB}",
        },
        2 * GB,
    ),
    "version 1, above the limit": (
        {
            "proc/self/cgroup": "4:memory:/docker/4f",
            "sys/fs/cgroup/memory/docker/4f/memory.limit_in_bytes": str(GB),
            "sys/fs/cgroup/memory/docker/4f/memory.usage_in_bytes": str(2 * GB),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(5 * GB),
        },
        0,
    ),
    "no control groups": ({}, float("inf")),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_left(name: str, tmp_path: Path) -> None:
    files, expected = MEMORY[name]
    assert cgroup.memory_left(write(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("affinity", "limit", "expected"),
    [(64, 2.0, 2), (64, 1.5, 2), (64, 0.5, 1), (2, 16.0, 2), (4, float("inf"), 4), (4, 0.0, 1)],
)
def test_available_cores(affinity: int, limit: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpu, "cpu_limit", lambda: limit)
    assert cpu.available_cores() == expected


def test_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    for left, expected in ((float("inf"), free.available), (1000.0, 1000), (free.available * 2, free.available)):
        monkeypatch.setattr(cpu, "memory_left", lambda left=left: left)
        assert cpu.available_memory() == expected
