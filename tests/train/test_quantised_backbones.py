"""Runs on a quantised backbone: their identity, what is refused, from the snapshot to the record."""

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.quantised_layers import bitsandbytes
from helpers.tiny_runs import assert_same_outcome, cell_in, execute, finish
from peft import PeftModel
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from mtlora.base.errors import UserError
from mtlora.config.schema import RunConfig
from mtlora.plan.cell import compose_cell, metric_values
from mtlora.records.record import RunRecord
from mtlora.tables.evidence import with_defaults
from mtlora.train.cohort.grouping import cohort_key
from mtlora.train.decode.decoding import merged
from mtlora.train.execution import execute as execute_cells
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model, count_parameters

pytestmark = pytest.mark.xdist_group("quantised_backbones")  # one process makes the snapshots, once

MODELS = {"tiny": "cola", "tiny_gpt2": "e2e"}  # model -> task
SHORT = ("train.limit_validation=8", "decode.limit_contexts=2", "decode.beams=2", "decode.max_new_tokens=8")


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pretrained models of sizes that bitsandbytes packs."""
    torch.manual_seed(0)
    found = {}
    for name, task in MODELS.items():
        tokenizer = load_tokenizer(compose_cell([f"model={name}", f"task={task}"]).config.model)
        found[name] = tmp_path_factory.mktemp(name)
        tokenizer.save_pretrained(found[name])
        backbone: Any
        if name == "tiny":
            shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
            backbone = BertForSequenceClassification(
                BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **shape)
            )
        else:
            backbone = GPT2LMHeadModel(
                GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=640)
            )
        backbone.save_pretrained(found[name])
    return found


def given(snapshots: dict[str, Path], kind: str, model: str = "tiny", *more: str) -> list[str]:
    wanted = [f"model={model}", f"task={MODELS[model]}", f"model.path={snapshots[model]}", "rank=r2"]
    return [*wanted, f"model.quantization={kind}", *more]


def test_only_a_quantised_run_has_another_identity(snapshots: dict[str, Path]) -> None:
    shas = {kind: compose_cell(given(snapshots, kind)).sha for kind in ("null", "nf4", "int8")}
    assert len(set(shas.values())) == 3
    config = compose_cell(given(snapshots, "null")).config
    assert "quantization" not in metric_values(asdict(config))["model"]
    earlier = asdict(config)  # of a record that is older than the key
    del earlier["model"]["quantization"]
    assert metric_values(with_defaults(earlier, RunConfig)) == metric_values(asdict(config))
    quantised = compose_cell(given(snapshots, "nf4")).config
    assert metric_values(asdict(quantised))["model"]["quantization"] == "nf4"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=tiny",), "needs pretrained weights in full precision, but those of model tiny are random"),
        (("model=smollm2_135m", "task=e2e"), "model smollm2_135m are read from a quantised GGUF file"),
        (("model=minilm", "transform=full"), "needs frozen weights, but transform=full trains them"),
    ],
)
def test_what_cannot_be_quantised_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        compose_cell(["task=cola", "model.quantization=nf4", *overrides])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"model\.quantization=nf8 is not known: choose one of nf4, int8"):
        compose_cell(["task=cola", "model=minilm", "model.quantization=nf8"])


def build(overrides: list[str]) -> Any:
    config = compose_cell(overrides).config
    return build_model(config, load_tokenizer(config.model))


def test_without_bitsandbytes_the_run_says_so(snapshots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    with pytest.raises(UserError, match=r"needs the package bitsandbytes: .*pip install .*\[quant\]'"):
        build(given(snapshots, "int8"))


@pytest.mark.parametrize("kind", ["null", "nf4"])
def test_a_snapshot_that_is_quantised_already_is_refused(kind: str, snapshots: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(snapshots["tiny"], tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="are quantised already: name a snapshot in full precision"):
        build([*given(snapshots, kind), f"model.path={folder}"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_frozen_layers_are_quantised_and_counted_in_full(kind: str, model: str, snapshots: dict[str, Path]) -> None:
    bnb = bitsandbytes()
    built = build(given(snapshots, kind, model, "train.precision=bf16"))
    assert isinstance(built, PeftModel)
    layers = [m for name, m in built.named_modules() if isinstance(m, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)]
    assert len(layers) == {"tiny": 12 + 1, "tiny_gpt2": 8}[model]  # BERT has a pooler
    assert all(getattr(layer, "compute_dtype", torch.bfloat16) == torch.bfloat16 for layer in layers)
    heads = [p for name, p in built.named_parameters() if "classifier" in name or "lm_head" in name]
    assert all(p.dtype == torch.float32 for p in heads)
    head = compose_cell(given(snapshots, kind, model)).config.model.head
    assert count_parameters(built, head) == count_parameters(build(given(snapshots, "null", model)), head)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_run_on_a_quantised_backbone(kind: str, snapshots: dict[str, Path], tmp_path: Path) -> None:
    bitsandbytes()
    more = given(snapshots, kind, "tiny", "transform=ctcm")
    record, folder = finish(tmp_path / "one", *more)
    assert record.status == "success"
    assert record.config["model"]["quantization"] == kind
    plain, _ = finish(tmp_path / "plain", *given(snapshots, "null", "tiny", "transform=ctcm"))
    losses = [float(r.epochs[-1]["train_loss"]) for r in (record, plain)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    _, again = finish(tmp_path / "two", *more)
    assert_same_outcome(folder, again)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_decoder_trains_and_decodes(snapshots: dict[str, Path], tmp_path: Path) -> None:
    bitsandbytes()
    record, folder = finish(tmp_path, *given(snapshots, "nf4", "tiny_gpt2", *SHORT))
    assert record.status == "success"
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 2


@pytest.mark.filterwarnings("ignore")
def test_quantised_runs_train_alone(snapshots: dict[str, Path], tmp_path: Path) -> None:
    bitsandbytes()
    methods = ("lora", "shim")
    cells = [cell_in(tmp_path / "sweep", *given(snapshots, "int8"), f"transform={name}") for name in methods]
    assert cohort_key(cells[0]) != cohort_key(cells[1])
    answers = execute_cells(cells)  # as if they had been put together
    assert [answer.result().status for answer in answers] == ["success"] * 2
    for cell, name in zip(cells, methods, strict=True):
        alone = cell_in(tmp_path / "alone", *given(snapshots, "int8"), f"transform={name}")
        execute(alone)
        assert "cohort" not in RunRecord.load(cell.folder / "record.json").provenance
        assert_same_outcome(cell.folder, alone.folder)


def test_decoding_leaves_quantised_weights_alone(snapshots: dict[str, Path]) -> None:
    bitsandbytes()
    model = build(given(snapshots, "nf4", "tiny_gpt2"))
    before = [p.clone() for p in model.parameters()]
    with merged(model):
        assert not any(getattr(module, "merged", False) for module in model.modules())
        assert all(map(torch.equal, before, model.parameters()))
