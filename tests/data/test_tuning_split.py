"""The split for tuning: which rows it holds out, and that a run for tuning reads no others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.glue_files import local_data, option, tsv, write
from helpers.tiny_runs import cell_in, execute

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig, LocalFile, TaskConfig
from mtlora.data import sources
from mtlora.plan.cell import Cell, compose_cell

BUILTIN = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


def rows(task: TaskConfig, data: DataConfig, split: str) -> list[tuple[Any, ...]]:
    columns = sources.load_split(task, data, split)
    return list(zip(*columns.values(), strict=True))


@pytest.mark.parametrize("name", BUILTIN)
def test_a_tenth_of_the_training_rows_is_held_out(name: str) -> None:
    task = option(name)
    everything = rows(task, DataConfig(source="builtin"), "train")
    tuning = DataConfig(source="builtin", split="tune")
    kept, held_out = rows(task, tuning, "train"), rows(task, tuning, "tune")
    assert sorted(kept + held_out) == sorted(everything)
    assert 0.06 < len(held_out) / len(everything) < 0.14
    texts = len(task.text_columns)
    assert not {row[:texts] for row in kept} & {row[:texts] for row in held_out}  # repeats stay together


def test_the_choice_depends_on_the_texts_alone(tmp_path: Path) -> None:
    """Not on the order of the rows, their labels or the other rows; the hash is written down for one row."""
    task = option("sst2")
    texts = [f"sentence {number}" for number in range(200)]

    def held_out(folder: str, chosen: list[str], label: int) -> set[str]:
        lines = [["sentence", "label"], *([text, str(label)] for text in chosen)]
        write(tmp_path / folder / "SST-2" / "train.tsv", tsv(lines))
        data = local_data(tmp_path / folder)
        data.split = "tune"
        return {row[0] for row in rows(task, data, "tune")}

    first = held_out("a", texts, 0)
    assert held_out("b", texts[::-1], 1) == first
    assert held_out("c", texts[50:], 0) == first & set(texts[50:])
    with pytest.raises(UserError, match="too few training rows, 1,"):
        held_out("d", texts[:1], 0)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every split whose file is looked up or whose content is hashed."""
    seen: list[str] = []
    find: Callable[..., tuple[LocalFile, Path]] = sources.find_file

    def watched(task: TaskConfig, data: DataConfig, split: str) -> tuple[LocalFile, Path]:
        seen.append(split)
        return find(task, data, split)

    monkeypatch.setattr(sources, "find_file", watched)
    return seen


def test_tuning_reads_no_row_of_the_development_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch)
    cell = cell_in(tmp_path, "data.split=tune", "protocol=matched", "seed=100")
    record = execute(cell)
    assert set(seen) == {"train"}
    assert {(m["split"], m["name"]) for m in record.metrics} == {("tune", "matthews"), ("tune", "accuracy")}
    assert set(record.provenance["rows"]) == {"train", "tune"}
    assert {b["split"] for b in record.baselines} == {"tune"}
    other = execute(cell_in(tmp_path, "seed=100"))
    assert {m["split"] for m in other.metrics} == {"validation"}  # the spy would see it
    assert "validation" in seen


def text_cell(results: Path, *more: str) -> Cell:
    base = ["task=webnlg", "model=tiny_gpt2", "rank=r2", "train.limit_examples=24", "train.epochs=2"]
    return compose_cell([*base, "compute.threads=1", f"results={results}", *more])


def test_tuning_of_data_to_text_reads_no_test_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch)
    cell = text_cell(tmp_path, "data.split=tune", "seed=100")
    record = execute(cell)
    assert set(seen) == {"train", "validation"}
    (last, best) = record.metrics
    assert (last["split"], last["name"], last["higher_is_better"]) == ("validation", "loss", False)
    assert last["value"] == record.epochs[-1]["metrics"]["validation"]["loss"] >= best["value"]
    assert not (cell.folder / "predictions.jsonl").exists()
    assert "decode_seconds" not in record.cost
