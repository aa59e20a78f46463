"""What the speed benchmarks share: interleaved timing, the table, and results/benchmarks/summary.json."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version

import pandas as pd
import torch

from mtlora.compute import fp32_matmul_precision
from mtlora.config import REPOSITORY
from mtlora.files import write_text
from mtlora.provenance import available_cores, processor

OUT = REPOSITORY / "results" / "benchmarks" / "summary.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "loralib")


@dataclass
class Entry:
    """One measured ratio: of times unless the name says otherwise."""

    name: str
    ratio: float
    better: str  # "lower" or "higher"
    goal: float | None  # None: a peer, for comparison
    against: str  # the peer or reference that the ratio is of
    spread: str  # range of the ratio over the repetitions
    equal: str  # how the two sides were checked to compute the same
    reason: str = ""  # why the goal is missed; dropped where it is not

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.better == "lower" else self.ratio >= self.goal


def interleave(sides: dict[str, Callable[[], object]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Time functions in turns, so that what else the machine does hits all of them; return seconds by name."""
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
    """Return the share of an encoder's weights that each token meets: `drop_unread_tokens` leaves out 9/12 of the last layer."""
    return 1 - 9 / 12 / layers


def machine() -> dict[str, object]:
    """Return what the figures depend on; no host name."""
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
    """Print a Markdown table and replace the entries of the same names in the summary."""
    known = json.loads(OUT.read_text()) if OUT.exists() else []
    for entry in entries:
        entry.reason = "" if entry.reached is not False else entry.reason
    rows = [asdict(entry) | {"reached": entry.reached, "machine": machine()} for entry in entries]
    names = {row["name"] for row in rows}
    write_text(OUT, json.dumps([row for row in known if row["name"] not in names] + rows, indent=1) + "\n")
    sign = {"lower": "<=", "higher": ">="}
    table = [
        {
            "what": e.name,
            "against": e.against,
            "ratio": f"{e.ratio:.2f}",
            "spread": e.spread,
            "goal": "" if e.goal is None else f"{sign[e.better]} {e.goal:g}",
            "reached": {True: "yes", False: f"no: {e.reason}" if e.reason else "no", None: ""}[e.reached],
            "equal": e.equal,
        }
        for e in entries
    ]
    print(f"\n### {title}\n\n{pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)}\n", flush=True)
