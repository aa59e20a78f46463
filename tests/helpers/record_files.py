"""Records of runs that never took place, with numbers that a test can choose."""

import dataclasses
from pathlib import Path

from mtlora.plan.cell import Cell
from mtlora.records.record import RunRecord

Values = dict[tuple[str, str], tuple[float, float]]  # (metric, split) -> raw value in the last and the best epoch


def make_record(cell: Cell, values: Values, baseline: float = 0.0, status: str = "success") -> RunRecord:
    """Return a finished run's record; `baseline` is the majority answer's score on every metric."""
    config = cell.config
    entries = [
        {"name": name, "split": split, "selection": selection, "value": value, "higher_is_better": True}
        for (name, split), both in values.items()
        for selection, value in zip(("last", "best"), both, strict=True)
    ]
    return RunRecord(
        run_id=cell.run_id,
        config_sha=cell.sha,
        suite=config.task.suite,
        task=config.task.name,
        model=config.model.name,
        transform=config.adapter.method,
        rank=config.adapter.r,
        seed=config.seed,
        targets=config.targets,
        profile=config.profile,
        config=dataclasses.asdict(config),
        overrides=list(cell.overrides),
        status=status,
        metrics=entries,
        baselines=[{"name": name, "split": split, "value": baseline} for name, split in values],
        parameters={"adapter": 2048, "head": 66, "total": 56482},
        cost={
            "seconds": 12.0 + config.seed,
            "train_seconds": 10.0,
            "steps": 4,
            "tokens": 1000,
            "tokens_per_second": 100.0,
            "peak_memory_bytes": 10**9,
        },
        provenance={"started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T03:05:05+00:00"},
    )


def save_record(runs: Path, record: RunRecord) -> Path:
    """Write a record into its own folder below `runs`; return the file."""
    folder = runs / record.run_id
    record.save(folder)
    return folder / "record.json"


def grid(text: str) -> dict[str, dict[str, str]]:
    """Read the first Markdown table: method -> column -> cell."""
    block = next(part for part in text.split("\n\n") if part[:1] == "|")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[2:]}
