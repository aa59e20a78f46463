"""Two data-to-text runs of which a test can read the texts."""

import json
from functools import lru_cache
from pathlib import Path

from helpers.record_files import make_record, save_record

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan

REFERENCES = [[f"the place number {n} lies in a country", f"number {n} is a place"] for n in range(40)]
TEXTS = {
    "none": [f"the place number {n} lies in the town" for n in range(40)],
    "shim": [f"the place number {n} lies in a country" if n % 3 else f"place {n}" for n in range(40)],
}


@lru_cache
def dart_plan() -> Plan:
    return make_plan(load_experiment("dart"), ["model=tiny_gpt2", "transform=lora,shim", "seed=0"])


def save_texts(runs: Path, other_context: bool = False) -> None:
    for cell in dart_plan().cells:
        record = make_record(cell, {("bleu", "test"): (40.0, 40.0), ("ter", "test"): (0.5, 0.5)})
        folder = save_record(runs, record).parent
        structure = cell.config.adapter.structure
        rows = [
            {"context": f"c{n}{other_context and structure}", "category": "", "references": r, "prediction": t}
            for n, (r, t) in enumerate(zip(REFERENCES, TEXTS[structure], strict=True))
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
