"""Common functions of the speed benchmarks: interleaved timing, and results/benchmarks/summary.json and summary.md."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from mtlora.base.cpu import available_cores, processor
from mtlora.base.files import write_text
from mtlora.base.onednn import fp32_matmul_precision
from mtlora.base.paths import REPOSITORY

OUT = REPOSITORY / "results" / "benchmarks" / "summary.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "loralib")


@dataclass
class Entry:
    """One measured ratio: of times unless the name says otherwise."""

    name: str
    ratio: float
    better: str  # "lower" or "higher"
    goal: float | None  # None for a peer, measured for comparison only
    against: str  # a peer or a reference: the denominator of the ratio where lower is better, else the numerator
    spread: str  # range of the ratio over the repetitions
    equal: str  # how the two sides were checked to compute the same
    reason: str = ""  # why the goal is missed; not printed if it is reached

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.better == "lower" else self.ratio >= self.goal


def interleave(sides: Mapping[str, Callable[[], object]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Time functions in turns, so that other load of the machine affects all of them; return seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(warm + repeats):
        for name, function in sides.items():
            started = time.perf_counter()
            function()
            if repeat >= warm:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(of: list[float], to: list[float]) -> tuple[float, str]:
    """Return the median of the ratios of paired times, and their range."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    return statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}"


def multiplied(layers: int) -> float:
    """Return the share of an encoder's weights used for each token: `drop_unread_tokens` leaves out 9/12 of the last layer."""
    return 1 - 9 / 12 / layers


def machine() -> dict[str, Any]:
    """Return a description of the machine, without its host name."""
    return {
        "processor": processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "fp32_matmul": "onednn" if fp32_matmul_precision() == "bf16" else "stock",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def publish(entries: list[Entry], title: str) -> None:
    """Print a table of the entries, and put them into the summary in place of those of the same names."""
    rows = []
    for entry in entries:
        entry.reason = "" if entry.reached is not False else entry.reason
        rows.append(asdict(entry) | {"reached": entry.reached, "machine": machine()})
    names = {row["name"] for row in rows}
    known = json.loads(OUT.read_text()) if OUT.exists() else []
    rows = [row for row in known if row["name"] not in names] + rows
    write_text(OUT, json.dumps(rows, indent=1) + "\n")
    summary = "\n\n".join(
        f"On {machine_text}:\n\n{markdown([row for row in rows if describe(row['machine']) == machine_text])}"
        for machine_text in dict.fromkeys(describe(row["machine"]) for row in rows)
    )
    write_text(OUT.with_suffix(".md"), summary + "\n")
    print(f"\n### {title}\n\n{markdown([row for row in rows if row['name'] in names])}\n", flush=True)


def describe(of: dict[str, Any]) -> str:
    """Return a machine in words."""
    versions = ", ".join(f"{name} {of[name]}" for name in PACKAGES)
    return f"{of['gpu'] or of['processor']}, {of['threads']} threads, fp32 products: {of['fp32_matmul']}; {versions}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, followed by the reasons for missed goals."""
    sign = {"lower": "<=", "higher": ">="}
    table = [
        {
            "what": row["name"],
            "against": row["against"],
            "ratio": f"{row['ratio']:.3f}",  # three digits, because two would round a near miss to the goal
            "better": row["better"],
            "range": row["spread"],
            "goal": "" if row["goal"] is None else f"{sign[row['better']]} {row['goal']:g}",
            "reached": {True: "yes", False: "**no**", None: ""}[row["reached"]],
            "equal": row["equal"],
        }
        for row in rows
    ]
    missed: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            missed.setdefault(row["reason"], []).append(row["name"])
    reasons = "".join(f"\n\nMissed: {'; '.join(names)}. {reason}." for reason, names in missed.items())
    return pd.DataFrame(table).to_markdown(index=False, disable_numparse=True) + reasons
