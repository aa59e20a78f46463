"""What happens to a run that somebody else trains, whose model breaks, or whose git is slow."""

import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.glue_files import jsonl, write
from helpers.record_files import make_record
from helpers.tiny_runs import cell_in, execute, finish, record_of

from mtlora.base.errors import UserError
from mtlora.data.encoding import Encoded
from mtlora.data.sources import load_contexts, load_split
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan
from mtlora.records import provenance
from mtlora.train import evaluation
from mtlora.train.compute import make_accelerator
from mtlora.train.data import load_data
from mtlora.train.evaluation import RunData, evaluate
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("GRADIENT_ACCUMULATION_STEPS", "4"), ("MIXED_PRECISION", "bf16"), ("DYNAMO_BACKEND", "inductor")),
        *(
            ("USE_DEEPSPEED", "true"),
            ("USE_FSDP", "true"),
            ("TORCH_DEVICE", "meta"),
            ("USE_PARALLELISM_CONFIG", "true"),
        ),
    ],
)
def test_variables_of_accelerate_change_nothing(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    accelerator = make_accelerator(cell_in(tmp_path).config)
    assert (accelerator.device.type, accelerator.mixed_precision) == ("cpu", "no")
    assert accelerator.gradient_accumulation_steps == 1
    weight = torch.ones(1, requires_grad=True)
    accelerator.backward(8 * weight.sum())
    assert weight.grad is not None
    assert weight.grad.item() == 8.0


def test_the_adapter_is_readable_as_the_record_is(tmp_path: Path) -> None:
    _, folder = finish(tmp_path, "train.epochs=1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes["adapter_model.safetensors"] == modes["record.json"]
    assert len(set(modes.values())) == 1, modes


@pytest.mark.parametrize("facts", [["A"], ["A", "A" * 100]])
def test_texts_that_do_not_fit_are_refused_or_counted(
    facts: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {
            "category": "Food",
            "modified_triples": [[subject, "b", f"C{n}"]],
            "lexicalisations": [{"comment": "good", "text": f"Text {n}"}],
        }
        for n in range(2)
        for subject in facts
    ]
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.jsonl", jsonl(rows))
    local = ("task=webnlg", "model=tiny_gpt2", "data.source=local", f"data.root={tmp_path}", "data.max_length=64")
    load_data(cell_in(tmp_path / "results", *local))
    assert ("2 of 4 training rows have no token of their text" in caplog.text) == (len(facts) == 2)
    few = cell_in(tmp_path / "results", *local, "data.max_length=8", "train.epochs=1")
    with pytest.raises(
        UserError, match=rf"none of the {len(rows)} training rows has a token of its text.*data\.max_length=8"
    ):
        execute(few)


def test_without_a_development_set_texts_are_decoded_and_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.txt", "name : A | food : C||A serves C .\n" * 4)
    local = ("task=e2e", "model=tiny_gpt2", "data.source=local", f"data.root={tmp_path}", "train.epochs=1")
    record, _ = finish(tmp_path / "results", *local, "decode.beams=1", "decode.max_new_tokens=4")
    assert {metric["split"] for metric in record.metrics} == {"test"}
    assert "no usable file for validation" in caplog.text


def test_a_loss_of_no_tokens_is_refused(tmp_path: Path) -> None:
    config = cell_in(tmp_path, "task=webnlg", "model=tiny_gpt2").config
    ids = np.ones(6, dtype=np.int32)
    empty = Encoded(ids, None, np.array([0, 3, 6]), np.array([3, 3]))  # two prompts without texts
    data = RunData(empty, np.arange(2), {"validation": empty}, 0)
    model = build_model(config, load_tokenizer(config.model))
    with pytest.raises(UserError, match="no row of validation has a token of its text"):
        evaluate(config, make_accelerator(config), model, data, "test")


def test_a_run_in_another_process_is_left_alone(tmp_path: Path) -> None:
    cell = cell_in(tmp_path)
    code = (
        "import sys; from pathlib import Path; from mtlora.base.files import only_process\n"
        "with only_process(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / "locks" / cell.sha
    command = [sys.executable, "-c", code, str(lock)]
    make_record(cell, {}, status="running").save(cell.folder)
    before = (cell.folder / "record.json").read_bytes()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"{cell.run_id} is being trained by another process"):
            execute(cell)
        other.kill()
    assert (cell.folder / "record.json").read_bytes() == before
    assert execute(cell).status == "success"


def test_predictions_that_are_not_numbers_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_in(tmp_path)

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        return output * float("nan")

    original = evaluation.evaluate

    def broken(config: Any, accelerator: Any, model: Any, *rest: Any) -> Any:
        head = next(m for name, m in model.named_modules() if name.endswith("classifier"))
        handle = head.register_forward_hook(hook)
        try:
            return original(config, accelerator, model, *rest)
        finally:
            handle.remove()

    monkeypatch.setattr("mtlora.train.run.evaluate", broken)
    with pytest.raises(UserError, match="predictions on validation are not finite"):
        execute(cell)
    assert record_of(cell).status == "failed"


def test_a_running_record_names_code_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_in(tmp_path)

    def slow(*args: Any, **kwargs: Any) -> Any:
        raise subprocess.TimeoutExpired("git", 10)

    def train(*args: Any) -> Any:
        kept = record_of(cell)
        assert kept.status == "running"
        assert kept.provenance["git"] == {"commit": None, "dirty": None}
        assert kept.provenance["packages"]["torch"] == version("torch")
        assert kept.provenance["device"]
        raise KeyboardInterrupt

    monkeypatch.setattr(provenance, "_git", slow)
    monkeypatch.setattr("mtlora.train.execution.train", train)
    with pytest.raises(KeyboardInterrupt):
        execute(cell)
    assert record_of(cell).status == "interrupted"


@pytest.mark.parametrize(
    ("task", "splits"), [("cola", ("train", "validation")), ("dart", ("train", "validation", "test"))]
)
def test_a_record_counts_the_rows_of_each_split(
    task: str, splits: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtlora.train.execution.train", train)
    cell = cell_in(tmp_path, f"task={task}", f"model={'tiny' if task == 'cola' else 'tiny_gpt2'}")
    with pytest.raises(KeyboardInterrupt):
        execute(cell)
    config = cell.config
    first = config.task.text_columns[0]
    rows = {split: len(load_split(config.task, config.data, split)[first]) for split in splits}
    if task == "dart":  # several texts share a context
        contexts = len(load_contexts(config.task, config.data))
        assert rows["test"] > contexts
        rows["test"] = contexts
    assert record_of(cell).provenance["rows"] == rows


def test_products_that_are_the_same_run_count_once(tmp_path: Path) -> None:
    plan = make_plan(
        load_experiment("glue"),
        ["model=tiny", "task=rte", "transform=lora", "seed=0", "rank=r2,r8", "adapter.r=4", f"results={tmp_path}"],
    )
    assert len(plan.cells) == 1
