"""Kill, starve and damage sweeps, and check that nothing is lost, trained twice or wrong: `make chaos`.

Each sweep is killed (SIGKILL) repeatedly, at random moments and while a chosen file is being written, and restarted until it ends
by itself. Then every cell must have exactly one successful record, with the metrics, predictions and tensors of an undisturbed
sweep. Linux only; the full disk and the read-only folder need the right to mount a tmpfs.
"""

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from rich.console import Console

from mtlora.base.paths import REPOSITORY
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.records.record import RECORD, RunRecord, find_records

GRID = ["task=cola,rte", "transform=lora,shim", "seed=0,1,2", "model=tiny", "train.limit_examples=64", "train.epochs=8"]
# checkpoints after every step, so that many kills meet one
GRID += ["train.checkpoint_seconds=0", "compute.threads=1"]
COMPARED = ("predictions.jsonl", "metrics.jsonl", "geometry.jsonl", "adapter_model.safetensors")
# the moment of a kill: while a file is being written (a glob below the results folder), or random
MOMENTS = {
    "at a random moment": None,
    "while it writes a checkpoint": "runs/**/.checkpoint.pt.*.tmp",
    "while it writes a record": "runs/**/.record.json.*.tmp",
    "while it writes metrics": "runs/**/.metrics.jsonl.*.tmp",
    "while it writes a cache of tokens": "cache/**/.*.tmp",
}
LAUNCHERS = ("local", "joblib", "cohort")
VICTIMS = {
    "the child that trains": "mtlora.train.worker",
    "the sweep": "mtlora.train",
    "the whole command": "mtlora.reproduce",
}

log = Console(stderr=True)


@dataclass
class Tally:
    """The number of injected faults, by kind."""

    tried: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def start(results: Path, launcher: str) -> "subprocess.Popen[bytes]":
    """Start the sweep in a session of its own."""
    command = [sys.executable, "-m", "mtlora.reproduce", "glue", *GRID, f"results={results}", "--launcher", launcher]
    command += ["--jobs", "1" if launcher == "local" else "2"]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def processes(kind: str, results: Path) -> list[int]:
    """Return the processes of this sweep whose command line names a module."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            if kind in words and (str(results) in words or (kind == "mtlora.train.worker" and _uses(entry, results))):
                found.append(int(entry.name))
    return found


def _uses(process: Path, results: Path) -> bool:
    """Tell whether a child holds the lock of a cell of these results."""
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            if os.readlink(descriptor).startswith(str(results)):
                return True
    return False


def disturb(results: Path, generator: random.Random, tally: Tally, kills: int) -> None:
    """Kill and restart a sweep a number of times, then let it end."""
    sweeps = [start(results, generator.choice(LAUNCHERS))]
    if generator.random() < 0.3:
        sweeps.append(start(results, "local"))
        tally.tried["two sweeps at once"] += 1
    for _ in range(kills):
        moment, victim = generator.choice(list(MOMENTS)), generator.choice(list(VICTIMS))
        pids, in_time = wait_for(results, MOMENTS[moment], VICTIMS[victim], generator, sweeps)
        moment = moment if in_time else "at a random moment"
        if not pids and sweeps[-1].poll() == 0:
            break
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                tally.tried[f"SIGKILL of {victim}, {moment}"] += 1
        if all(sweep.poll() is not None for sweep in sweeps):
            sweeps.append(start(results, generator.choice(LAUNCHERS)))
    for _ in range(20):  # the next call trains the failed runs again
        for sweep in sweeps:
            sweep.wait(600)
        if sweeps[-1].returncode == 0:
            return
        sweeps = [start(results, "joblib")]
    tally.problems.append(f"{results}: the sweep does not come to an end")


def wait_for(
    results: Path, pattern: str | None, kind: str, generator: random.Random, sweeps: list["subprocess.Popen[bytes]"]
) -> tuple[list[int], bool]:
    """Wait for the moment; return the processes to kill (none if the sweeps have ended), and whether the moment came."""
    deadline = time.monotonic() + (generator.uniform(0, 12) if pattern is None else 20)
    while any(sweep.poll() is None for sweep in sweeps):
        if pattern is not None and next(results.glob(pattern), None) is not None:
            if pids := processes(kind, results):
                return pids[:1], True
        elif time.monotonic() > deadline and (pids := processes(kind, results)):
            return pids[:1], pattern is None
        time.sleep(0.001 if pattern else 0.05)
    return [], False


def survivors(folder: Path) -> int:
    """Return how many processes of the sweeps below a folder are left after the time that they may take to end."""
    deadline = time.monotonic() + 30
    while (left := len(processes(str(folder), folder))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def check(results: Path, reference: Path, plan_of: Callable[[Path], Plan], tally: Tally) -> None:
    """Compare a sweep's results with those of the undisturbed one."""
    wanted = {cell.sha: cell for cell in plan_of(results).cells}
    records = [RunRecord.load(path) for path in find_records(results / "runs")]
    counts = Counter(record.config_sha for record in records if record.status == "success")
    tally.problems += [f"lost: {cell.run_id}" for sha, cell in wanted.items() if counts[sha] == 0]
    tally.problems += [f"duplicated: {sha}" for sha, count in counts.items() if count > 1 or sha not in wanted]
    trained = Counter(record.run_id for record in records)  # one folder per run, whatever its state
    tally.problems += [f"two folders: {name}" for name, count in trained.items() if count > 1]
    for cell, twin in zip(plan_of(results).cells, plan_of(reference).cells, strict=True):
        if counts[cell.sha] != 1:
            continue
        ours, theirs = (RunRecord.load(c.folder / RECORD) for c in (cell, twin))
        same = ours.metrics == theirs.metrics
        if "cohort" in ours.provenance:  # equal to a run alone up to rounding
            pairs = zip(ours.epochs, theirs.epochs, strict=True)
            same = same and all(math.isclose(a["train_loss"], b["train_loss"], rel_tol=1e-4) for a, b in pairs)
        else:
            same = same and ours.epochs == theirs.epochs
            same = same and all((cell.folder / n).read_bytes() == (twin.folder / n).read_bytes() for n in COMPARED)
        if not same:
            tally.problems.append(f"wrong: {cell.run_id} differs from the undisturbed sweep")


def full_disk(folder: Path, tally: Tally) -> Path | None:
    """Run the sweep on a nearly full disk, then free space; return its results folder, None without the right to mount."""
    return _mounted(folder, "size=300k", "size=200m", "full disk", tally)


def read_only(folder: Path, tally: Tally) -> Path | None:
    """Run the sweep in a read-only folder, then make it writable."""
    return _mounted(folder, "ro", "rw", "read-only folder", tally)


def _mounted(folder: Path, first: str, then: str, name: str, tally: Tally) -> Path | None:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", first, "tmpfs", folder], capture_output=True).returncode:
        log.print(f"{name}: not tried, no right to mount a tmpfs")
        return None
    tally.tried[name] += 1
    broken = start(folder / "results", "local")
    if broken.wait(600) == 0:
        tally.problems.append(f"{name}: the sweep says that all is well")
    subprocess.run(["mount", "-o", f"remount,{then}", folder], check=True)
    return folder / "results"


def damage(results: Path, tally: Tally) -> None:
    """Interrupt a sweep, then cut a checkpoint and the cached data in half."""
    sweep = start(results, "local")
    while sweep.poll() is None and not list(results.glob("runs/**/checkpoint.pt")):
        time.sleep(0.01)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    time.sleep(3)  # the child stops when its parent is gone
    for pattern in ("runs/**/checkpoint.pt", "cache/**/*"):
        for path in results.glob(pattern):
            if path.is_file() and path.stat().st_size:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                tally.tried["checkpoint cut in half" if "checkpoint" in pattern else "cached file cut in half"] += 1


def finish(results: Path, tally: Tally) -> None:
    """Run the sweep until it is complete."""
    if not any(start(results, "joblib").wait(900) == 0 for _ in range(3)):
        tally.problems.append(f"{results}: the sweep does not come to an end")


def main() -> None:
    """Parse the command line, inject the faults, print a Markdown table; exit code 1 if a record is lost, duplicated or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator, tally = random.Random(arguments.seed), Tally()
    folder = Path(mkdtemp(prefix="chaos-"))
    reference = folder / "reference"

    def plan_of(results: Path) -> Plan:
        return make_plan(load_experiment("glue"), [*GRID, f"results={results}"])

    finish(reference, tally)
    swept: list[Path] = []
    while (kills := sum(n for name, n in tally.tried.items() if name.startswith("SIGKILL"))) < arguments.kills:
        swept.append(folder / f"sweep{len(swept)}")
        disturb(swept[-1], generator, tally, min(10, arguments.kills - kills))
        check(swept[-1], reference, plan_of, tally)
        log.print(f"{kills} kills before sweep {len(swept)}; {len(tally.problems)} problems")
    mounts = []
    for make in (full_disk, read_only):
        if (results := make(folder / make.__name__, tally)) is not None:
            mounts.append(results)
            finish(results, tally)
            check(results, reference, plan_of, tally)
    damaged = folder / "damaged"
    damage(damaged, tally)
    finish(damaged, tally)
    check(damaged, reference, plan_of, tally)
    if left := survivors(folder):
        tally.problems.append(f"{left} processes are left behind")
    for results in mounts:
        subprocess.run(["umount", results.parent], check=False)
    cells = len(plan_of(reference).cells)
    rows = [(name, count) for name, count in sorted(tally.tried.items()) if count]
    print(pd.DataFrame(rows, columns=["fault", "times"]).to_markdown(index=False))
    print(f"\n{len(swept) + len(mounts) + 1} sweeps of {cells} cells; problems: {len(tally.problems)}")
    for line in tally.problems:
        print(f"- {line}")
    if tally.problems:
        sys.exit(f"error: records were lost, duplicated or wrong; everything is kept in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
