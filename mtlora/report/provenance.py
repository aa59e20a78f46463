"""The provenance of the runs in a report."""

from collections import Counter
from collections.abc import Sequence

from mtlora.records.record import RunRecord
from mtlora.tables.view import View


def provenance(views: Sequence[View]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Count the runs by code, software, machine and data: (kind, [(value, number of runs)])."""
    kinds: dict[str, Counter[str]] = {}
    for record in {sha: record for view in views for sha, record in view.records.items()}.values():
        for kind, value in _origin(record).items():
            kinds.setdefault(kind, Counter())[value] += 1
    return [(kind, sorted(counter.items())) for kind, counter in kinds.items()]


def _origin(record: RunRecord) -> dict[str, str]:
    p = record.provenance
    git, packages = p.get("git") or {}, p.get("packages") or {}
    software = ", ".join(f"{name} {packages.get(name)}" for name in ("torch", "transformers", "peft"))
    return {
        "code": f"commit {str(git.get('commit'))[:12]}{' with uncommitted changes' if git.get('dirty') else ''}",
        "software": f"Python {p.get('python')}, {software}",
        "machine": f"{p.get('os')}, {p.get('device')}, {p.get('threads')} threads, fp32 products: {p.get('fp32_matmul')}",
        "data": f"{record.task}: {str(p.get('data_content'))[:12]}",
    }
