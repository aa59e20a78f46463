"""A data-to-text run from start to scores on a tiny random decoder, its models, and the command that scores texts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builtin_text.tokenizers import byte_tokenizer
from builtin_text.triples import generate_entries
from helpers.glue_files import write
from helpers.tiny_runs import assert_same_outcome, execute, record_of, rows, stop_at
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from mtlora.adapter import MTLoraLayer
from mtlora.base.errors import UserError
from mtlora.base.paths import REPOSITORY
from mtlora.data.sources import load_contexts
from mtlora.plan.cell import Cell, compose_cell
from mtlora.score import __main__ as score
from mtlora.score import generated, text
from mtlora.train.decode import decoding
from mtlora.train.model.build import build_model, count_parameters
from mtlora.train.objectives import batch_loss
from mtlora.train.state import CHECKPOINT

pytestmark = pytest.mark.xdist_group("data_to_text")  # one process trains the run, once


def cell_in(results: Path, *more: str) -> Cell:
    base = {"task": "webnlg", "model": "tiny_gpt2", "rank": "r2", "train.limit_examples": "24", "train.epochs": "2"}
    base |= {"train.log_every": "1", "compute.threads": "1", "decode.max_new_tokens": "3", "results": str(results)}
    base |= dict(item.split("=", 1) for item in more)
    return compose_cell([f"{key}={value}" for key, value in base.items()])


@pytest.fixture(scope="module", autouse=True)
def _cheap_java() -> Any:
    """METEOR has tests of its own; here a missing Java is enough, and it is a case that has to work."""
    patch = pytest.MonkeyPatch()
    patch.setattr(text, "java_works", lambda: False)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    cell = cell_in(tmp_path_factory.mktemp("results"), "transform=shim")
    execute(cell)
    return cell


def test_merging_for_a_while_leaves_no_trace_in_weights_that_others_share() -> None:
    config = cell_in(Path("unused"), "transform=shim").config
    model, sibling = (build_model(config, byte_tokenizer(), shared=True) for _ in range(2))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "mtlora_B" in name:
            torch.nn.init.normal_(parameter, std=10.0)  # adding and subtracting this would change the weights
    before = {name: tensor.clone() for name, tensor in sibling.get_base_model().state_dict().items()}
    ids, name = torch.arange(6)[None], "transformer.h.0.attn.c_attn.base_layer.weight"
    unmerged = model(input_ids=ids).logits
    with decoding.merged(model):
        assert torch.allclose(model.get_base_model()(input_ids=ids).logits, unmerged, rtol=1e-3, atol=1e-3)
        assert not torch.equal(model.get_base_model().state_dict()[name], before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in sibling.get_base_model().state_dict().items())
    assert torch.equal(model(input_ids=ids).logits, unmerged)


def test_record_of_a_run(finished: Cell) -> None:
    record = record_of(finished)
    assert record.status == "success"
    names = {(m["split"], m["name"], m["selection"]) for m in record.metrics}
    # METEOR is missing, not 0, where there is no Java.
    assert names == {(f"test_{part}", name, "last") for part in "ASU" for name in ("bleu", "ter")}
    losses = [epoch["metrics"]["validation"]["loss"] for epoch in record.epochs]
    assert losses[1] < losses[0]
    assert record.parameters["head"] == 0
    assert record.cost["decode_seconds"] > 0
    entries = generate_entries("webnlg", "test")
    kept = [json.loads(line) for line in (finished.folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["category"] for row in kept] == [entry.category for entry in entries]
    assert [tuple(row["references"]) for row in kept] == [entry.texts for entry in entries]
    assert all(isinstance(row["prediction"], str) for row in kept)
    assert not (finished.folder / CHECKPOINT).exists()


def test_methods_differ_in_t_alone(finished: Cell, tmp_path: Path) -> None:
    lora = cell_in(Path(finished.config.results), "transform=lora")
    execute(lora)
    (first, *_), (other, *_) = rows(finished.folder), rows(lora.folder)
    assert first["train_loss"] == other["train_loss"], "before the first update: the same rows, and B = 0"


@pytest.mark.parametrize("where", ["training", "decoding"])
def test_a_run_killed_on_its_way_ends_with_the_same_texts(
    where: str, finished: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_in(tmp_path, "transform=shim", "train.checkpoint_seconds=0")
    assert cell.sha == finished.sha
    if where == "training":
        stop_at(monkeypatch, 5, KeyboardInterrupt())
    else:
        monkeypatch.setattr(decoding, "generate", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        execute(cell)
    assert record_of(cell).status == "interrupted"
    monkeypatch.undo()
    monkeypatch.setattr(text, "java_works", lambda: False)
    monkeypatch.setattr("mtlora.train.objectives.batch_loss", _counting := CountingLoss())
    execute(cell)
    assert _counting.calls == (1 if where == "training" else 0)
    assert_same_outcome(finished.folder, cell.folder)


class CountingLoss:
    """The loss, and how often it was taken."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arguments: Any) -> torch.Tensor:
        self.calls += 1
        return batch_loss(*arguments)


@pytest.mark.parametrize(("targets", "transform", "joint", "expected"), [
    ("qv", "lora", "auto", 393_216),
    ("qv", "shim", "auto", 393_216 + 24 * 2 * 16),
    ("qv", "shim", "joint", 394_752),
    ("official", "shim", "auto", 1_085_184),
])  # fmt: skip
def test_parameters_of_gpt2_medium_are_those_of_the_paper(
    targets: str, transform: str, joint: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = [
        "task=dart",
        "profile=paper",
        "model=gpt2_medium",
        "rank=r4",
        f"targets={targets}",
        f"transform={transform}",
    ]
    config = compose_cell([*paper, f"adapter.fused_transform={joint}"]).config

    def empty(*_: Any, **__: Any) -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=24, n_head=16, n_embd=1024))

    monkeypatch.setattr("mtlora.train.model.build.load_backbone", empty)
    # Numbers cannot be drawn on a meta device.
    monkeypatch.setattr(MTLoraLayer, "reset_mtlora_parameters", lambda *_, **__: None)

    def on_meta(*arguments: Any, **keywords: Any) -> Any:
        return get_peft_model(*arguments, **keywords, low_cpu_mem_usage=True)

    monkeypatch.setattr("mtlora.train.model.methods.get_peft_model", on_meta)
    model = build_model(config, byte_tokenizer())
    assert count_parameters(model, [])["adapter"] == expected


def test_keys_stay_as_they_are_unless_adapted() -> None:
    config = compose_cell(["task=dart", "model=tiny_gpt2", "rank=r2", "transform=ctcm"]).config
    model = build_model(config, byte_tokenizer())
    attention = model.get_base_model().transformer.h[0].attn.c_attn
    for name, parameter in attention.named_parameters():
        if ".mtlora_B" in name or name.startswith("mtlora_B"):
            torch.nn.init.normal_(parameter)
    x = torch.randn(3, 32)
    change = attention(x) - attention.base_layer(x)
    q, k, v = change.split(32, dim=1)
    assert torch.equal(k, torch.zeros_like(k))
    assert q.abs().min() > 0
    assert v.abs().min() > 0


def test_missing_metrics_are_added_when_the_run_is_asked_for_again(
    finished: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record_of(finished)

    def measured(names: Any, *_: Any) -> dict[str, float]:
        return dict.fromkeys(names, 0.25)

    monkeypatch.setattr(generated, "compute_texts", measured)
    execute(finished)
    assert {m["name"] for m in record_of(finished).metrics} == {"bleu", "meteor", "ter"}
    assert record_of(finished).epochs == before.epochs, "nothing was trained again"
    before.save(finished.folder)


def test_too_few_positions_are_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlora.train.execution.train", lambda *_: pytest.fail("it has trained"))
    with pytest.raises(UserError, match=r"exceed the model's .* positions: lower decode\.max_context"):
        execute(
            cell_in(
                tmp_path, "decode.max_new_tokens=200", "model.architecture.n_positions=256", "train.limit_validation=4"
            )
        )


def test_decoding_is_in_fp32_whatever_the_training_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = decoding.generate

    def watched(model: Any, *rest: Any) -> Any:
        seen.append(model(input_ids=torch.ones(1, 2, dtype=torch.long)).logits.dtype)
        return real(model, *rest)

    monkeypatch.setattr(decoding, "generate", watched)
    execute(cell_in(tmp_path, "train.precision=bf16", "train.epochs=1", "decode.limit_contexts=4"))
    assert seen == [torch.float32]


def test_backbone_of_a_generation_task_has_no_dropout(tmp_path: Path) -> None:
    model = build_model(cell_in(tmp_path).config, byte_tokenizer())
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates <= {0.0}


def run_score(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mtlora.score", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_score_reads_lines_and_records_alike(
    finished: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    kept = [json.loads(line) for line in (finished.folder / "predictions.jsonl").read_text().splitlines()]
    contexts = [context.facts for context in load_contexts(finished.config.task, finished.config.data)]
    assert [row["context"] for row in kept] == contexts
    lines = write(tmp_path / "texts.txt", "".join(" ".join(row["prediction"].split()) + "\n" for row in kept))
    printed = []
    for arguments in ([str(lines), "--source", "builtin"], [str(finished.folder / "predictions.jsonl")]):
        monkeypatch.setattr(sys, "argv", ["score", "webnlg", *arguments])
        score.main()
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    for m in record_of(finished).metrics:
        assert printed[0][m["split"].removeprefix("test_")][m["name"]] == m["value"]


@pytest.mark.parametrize(
    ("content", "arguments", "named"),
    [
        ("one\ntwo\n", ("--source", "builtin"), "has 2 lines, but the test set has 120 contexts"),
        ("", ("--source", "builtin"), "is empty"),
        (b"\xff\xfe", ("--source", "builtin"), "is not UTF-8 text"),
        ("one\n", (), "add --data-root DIR"),
        (None, ("--source", "builtin"), "cannot read"),
    ],
)
def test_bad_predictions_are_one_line(
    content: Any, arguments: tuple[str, ...], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        write(path, content)
    monkeypatch.setattr(sys, "argv", ["score", "dart", str(path), *arguments])
    with pytest.raises(UserError) as error:
        score.main()
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_record_of_predictions_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.jsonl", '{"context": "a"}\n')
    ended = run_score("dart", str(path))
    assert ended.returncode == 1
    assert f"error: {path}:1: not a row with context" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_contexts_are_printed_in_order(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["score", "e2e", "--source", "builtin", "--list-contexts"])
    score.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 120
    assert printed[0].startswith("name : ")
    assert "price : " in "".join(printed), "attributes are named as in LoRA's data"


def test_texts_of_another_task_are_refused(finished: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["score", "e2e", str(finished.folder / "predictions.jsonl")])
    with pytest.raises(UserError, match="holds texts for webnlg, not e2e"):
        score.main()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m mtlora.score dart --source builtin --list-contexts | head -1"
    ended = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.stdout.count("\n") == 1
    assert "Traceback" not in ended.stderr
