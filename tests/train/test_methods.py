"""Every method of conf/transform trains, is saved and reloads; other PEFT methods, their starts, and what is refused."""

import json
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from builtin_text.tokenizers import word_tokenizer
from helpers.own_method import SOURCE
from helpers.shipped import METHODS
from helpers.tiny_runs import cell_in, execute, finish
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from mtlora.adapter.transforms import first_step
from mtlora.base.errors import UserError
from mtlora.data.encoding import collate
from mtlora.plan.cell import Cell, compose_cell
from mtlora.records.record import RunRecord
from mtlora.train.data import load_data
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model, fresh_backbone, load_parent, weights_file
from mtlora.train.model.methods import SEEDS, MethodModel, effective

pytestmark = pytest.mark.xdist_group("methods")  # one process trains each method, once

SHORT = ("train.epochs=1", "train.limit_examples=32", "protocol=matched")
R, WIDTH = 2, 32  # rank, and the width of the tiny model, whose 4 layers (q and v, twice) are adapted
OWN_RATE = {"full": 1 / 16}


def build(*more: str) -> MethodModel:
    config = compose_cell(["model=tiny", "task=cola", "rank=r2", *more]).config
    return build_model(config, load_tokenizer(config.model))


def adapter_parameters(method: str) -> int:
    """The number of trained parameters outside the head, from the definition of each method."""
    structure = compose_cell(["model=tiny", "task=cola", f"transform={method}"]).config.adapter.structure
    factors = 0 if method.endswith("_frozen") else {"none": 0, "shim": 1, "icfm": 1, "ctcm": 2, "dtsm": 2}[structure]
    layer = 2 * R * WIDTH + factors * R * R  # A, B, and the factors of T
    embeddings = (len(word_tokenizer()) + 128 + 2 + 2) * WIDTH  # words, positions, types, layer norm
    block = 4 * (WIDTH**2 + WIDTH) + 2 * 2 * WIDTH + (WIDTH * 64 + 64) + (64 * WIDTH + WIDTH)
    return {
        "dora": 4 * (layer + WIDTH),  # the length of every row
        "vera": 4 * (R + WIDTH),  # the vectors d and b
        "miss": 4 * R * WIDTH,  # one matrix
        "full": embeddings + 2 * block + (WIDTH**2 + WIDTH),  # the last is the pooler
    }.get(method, 4 * layer)


@lru_cache
def run_of(method: str, place: Path) -> tuple[Cell, RunRecord]:
    cell = cell_in(place, f"transform={method}", *SHORT)
    return cell, execute(cell)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_its_record_states_what_was_computed(method: str, place: Path) -> None:
    cell, record = run_of(method, place)
    a = cell.config.adapter
    assert (record.status, record.transform, record.protocol) == ("success", method, "matched")
    own = first_step(a.structure, R)
    alpha = 16 / own * (first_step("ctcm", R) if method == "lora_scaled" else 1)
    rate = 5e-3 * OWN_RATE.get(method, 1)
    assert record.effective == pytest.approx({"learning_rate": rate, "alpha": alpha, "first_step": own})
    assert record.parameters["adapter"] == adapter_parameters(method)
    assert record.parameters["head"] == 2 * WIDTH + 2
    rows = [json.loads(line) for line in (cell.folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("learning_rate", 0) for row in rows) == pytest.approx(rate)
    saved = load_file(cell.folder / weights_file(cell.config))
    fresh = build_model(cell.config, load_tokenizer(cell.config.model))
    frozen = {
        name for name in saved if method.endswith("_frozen") and name.endswith(("mtlora_C.weight", "mtlora_D.weight"))
    }
    beginning = {
        name.replace(".default", "").replace(".modules_to_save", ""): t for name, t in fresh.state_dict().items()
    }
    if isinstance(fresh, PeftModel):
        moved = {name for name, tensor in saved.items() if not torch.equal(tensor, beginning.get(name, tensor + 1))}
        constant = {name for name in saved if method == "vera" and name.endswith(("vera_A", "vera_B"))} | frozen
        assert moved == set(saved) - constant
        assert bool(frozen) == method.endswith("_frozen")


def logits(model: torch.nn.Module, cell: Cell) -> torch.Tensor:
    """Of some texts of the task."""
    tokenizer = load_data(cell)[0]
    batch = tokenizer(["a good text", "this is another one", "he saw the"], return_tensors="pt", padding=True)
    with torch.no_grad():
        return model.eval()(**batch).logits


def predicted(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return [row["prediction"] for row in rows]


def all_predictions(model: torch.nn.Module, cell: Cell) -> list[int]:
    _, data = load_data(cell)
    (split,) = data.evaluation.values()
    found: list[int] = []
    for row in range(len(split)):
        batch = collate(split, torch.tensor([row]).numpy(), data.pad_token_id, "longest", 128)
        del batch["labels"]
        with torch.no_grad():
            found += model.eval()(**batch).logits.argmax(-1).tolist()
    return found


def test_full_moves_everything_and_reloads_to_the_same_predictions(place: Path) -> None:
    cell, record = run_of("full", place)
    assert not (cell.folder / "adapter_model.safetensors").exists()
    assert record.parameters["adapter"] + record.parameters["head"] == record.parameters["total"]
    fresh = dict(build_model(cell.config, load_tokenizer(cell.config.model)).named_parameters())
    saved = load_file(cell.folder / "model.safetensors")
    assert saved.keys() == fresh.keys()
    still = {name for name, tensor in saved.items() if torch.equal(tensor, fresh[name])}
    assert not still
    model = AutoModelForSequenceClassification.from_pretrained(cell.folder)
    assert all_predictions(model, cell) == predicted(cell.folder)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "full"])
def test_an_adapter_reloads_with_peft_to_the_same_predictions(method: str, place: Path) -> None:
    cell, _ = run_of(method, place)
    torch.manual_seed(123)  # a start that is drawn again while loading must not matter
    plain = fresh_backbone(cell.config, len(load_tokenizer(cell.config.model)), shared=False)
    model = PeftModel.from_pretrained(plain, str(cell.folder))
    assert all_predictions(model, cell) == predicted(cell.folder)
    # The logits of a fresh model with the saved tensors put in by hand.
    again = build_model(cell.config, load_tokenizer(cell.config.model))
    own = {
        name.replace(".default", "").replace(".modules_to_save", ""): p
        for name, p in again.state_dict(keep_vars=True).items()
    }
    with torch.no_grad():
        for name, tensor in load_file(cell.folder / "adapter_model.safetensors").items():
            own[name if name in own else f"{name}.weight"].copy_(tensor)
    torch.testing.assert_close(logits(model, cell), logits(again, cell), rtol=1e-5, atol=1e-6)


def test_a_joint_t_has_the_step_of_its_size() -> None:
    one = ["model=tiny_gpt2", "task=e2e", "transform=icfm", "protocol=matched", "rank=r2"]
    block, joint = (effective(compose_cell([*one, f"targets={t}"]).config) for t in ("qv", "official"))
    assert block["first_step"] == first_step("icfm", 2)
    assert joint["first_step"] == first_step("icfm", 6), "q, k and v share a T"
    assert joint["alpha"] == pytest.approx(16 / first_step("icfm", 6))
    forced = effective(compose_cell([*one, "targets=qv", "adapter.fused_transform=joint"]).config)
    assert forced["first_step"] == first_step("icfm", 4)


# Starts


def tensors_of(*more: str) -> dict[str, torch.Tensor]:
    """The trained tensors outside the head, the shared projections of VeRA, and the weights that PiSSA has changed."""
    model = build(*more)
    kept = ("lora_", "vera_", "miss_", "base_layer.weight", "hada_", "lokr_")
    return {name: t.clone() for name, t in model.state_dict().items() if any(part in name for part in kept)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    assert one
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "method", ["dora", "vera", "pissa", "miss", "miss adapter.peft.peft_type=LOHA", "miss adapter.peft.peft_type=LOKR"]
)
def test_the_start_of_a_peft_method_depends_on_seed_and_task_alone(method: str) -> None:
    name, *rest = method.split()
    more = (f"transform={name}", *rest)
    torch.manual_seed(1)
    one = tensors_of(*more)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert same(one, tensors_of(*more))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is as before"
    if method not in ("pissa", "miss"):  # which draw nothing
        assert not same(one, tensors_of(*more, "seed=1"))
        assert not same(one, tensors_of(*more, "task=rte"))


def test_the_projections_of_vera_are_drawn_from_the_stream() -> None:
    shared = [
        {
            name: t
            for name, t in tensors_of("transform=vera", *more).items()
            if name.endswith(("vera_A.default", "vera_B.default"))
        }
        for more in (
            (),
            ("seed=1",),
            ("task=rte",),
            ("+adapter.peft.projection_prng_key=7",),
            ("seed=1", "+adapter.peft.projection_prng_key=7"),
        )
    ]
    assert not same(shared[0], shared[1])
    assert not same(shared[0], shared[2])
    assert same(shared[3], shared[4]), "a key of one's own wins"


def test_every_seed_field_of_peft_is_known() -> None:
    found = {
        field.name
        for config in PEFT_TYPE_TO_CONFIG_MAPPING.values()
        for field in fields(config)
        if any(word in field.name for word in ("seed", "prng", "rng_key")) and field.type in (int, "int", int | None)
    }
    assert found <= set(SEEDS)


@pytest.mark.parametrize("method", ["dora", "vera", "pissa", "miss", "full", "dtsm"])
def test_init_from_starts_from_the_parents_tensors(method: str, tmp_path: Path) -> None:
    more = [f"transform={method}", "train.epochs=1", "train.limit_examples=32"]
    parent_record, parent = finish(tmp_path, "task=mnli", *more)
    child = cell_in(tmp_path, "task=rte", "init_from=mnli", *more)
    child.config.train.learning_rate = 1e-30  # too small to move anything, so that the start shows
    record = execute(child)
    assert record.status == parent_record.status == "success"
    assert record.provenance["parent"] is not None
    own, inherited = (load_file(folder / weights_file(child.config)) for folder in (child.folder, parent))
    assert own.keys() == inherited.keys()
    for name in own:
        if "classifier" not in name:
            assert torch.equal(own[name], inherited[name]), name
    (weight,) = (name for name in own if name.endswith("classifier.weight"))
    fresh = build(f"transform={method}", "task=rte").state_dict()
    (start_of_head,) = (
        t
        for n, t in fresh.items()
        if n.endswith(("modules_to_save.default.weight", "0.classifier.weight")) or n == weight
    )
    assert torch.equal(own[weight], start_of_head)
    assert inherited[weight].shape == (3, WIDTH)


def test_full_fine_tuning_of_a_model_with_tied_weights_can_be_a_parent(tmp_path: Path) -> None:
    config = compose_cell(["model=tiny_gpt2", "task=dart", "transform=full"]).config
    tokenizer = load_tokenizer(config.model)
    parent, child = build_model(config, tokenizer), build_model(config, tokenizer)
    with torch.no_grad():
        parent.transformer.wte.weight.normal_()
    parent.save_pretrained(str(tmp_path))
    load_parent(child, config, tmp_path)
    assert torch.equal(child.transformer.wte.weight, parent.transformer.wte.weight)
    assert child.lm_head.weight is child.transformer.wte.weight


# A method of one's own, and what is refused


def test_a_peft_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doubled_method.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["transform=miss", "adapter.method=doubled", "adapter.label=Doubled", *SHORT, "adapter.dropout=0.1"]
    own += ["adapter.peft.peft_type=doubled", "+adapter.peft.module=doubled_method", "+adapter.peft.factor=2"]
    record, folder = finish(tmp_path / "results", *own)
    assert (record.status, record.transform) == ("success", "doubled")
    assert record.parameters["adapter"] == 4 * 2 * R * WIDTH
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["lora_alpha"], saved["factor"], saved["r"]) == ("DOUBLED", 32, 2, R)
    assert saved["lora_dropout"] == 0.1
    assert "classifier" in saved["modules_to_save"]


def refused(*more: str) -> str:
    with pytest.raises(UserError) as error:
        build(*more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("adapter.peft.peft_type=LORAX",), "adapter.peft.peft_type=LORAX is not a method of this PEFT: choose one of ADALORA"),
        (("+adapter.peft.alhpa=3",), "MissConfig has no field alhpa: remove it from adapter.peft"),
        (("+adapter.peft.module=no_such_module",), "adapter.peft.module=no_such_module cannot be imported: ModuleNotFoundError"),
        (("adapter.peft.peft_type=LORA", "+adapter.peft.init_lora_weights=pisa"), "pisa"),
        (("adapter.peft.peft_type=LORA", "+adapter.peft.target_parameters=[a]", "+adapter.peft.layers_pattern=h"), "LoraConfig"),
        (("adapter.peft.peft_type=IA3", "adapter.dropout=0.1"), "has no dropout of its own: set adapter.dropout=0"),
        (("adapter.peft.peft_type=ADALORA",), "AdaLoraConfig refuses its values"),
        (("adapter.peft.peft_type=ADALORA", "+adapter.peft.total_step=100"), "changes its ranks during training"),
        (("adapter.peft.peft_type=ADAMSS",), "changes its ranks during training"),
        (("+adapter.peft.target_modules=[nothing]",), "cannot be adapted: "),
        (("+adapter.peft.r=much",), "transform=miss"),
        (("model=tiny_gpt2", "task=e2e"), "cannot adapt slices of a projection, as targets=qv of tiny_gpt2 wants: choose"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_a_peft_method_cannot_do_is_one_line(overrides: tuple[str, ...], reason: str) -> None:
    line = refused("transform=miss", *overrides)
    assert "transform=miss" in line
    assert reason in line


def test_a_module_with_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_method.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = refused("transform=miss", "+adapter.peft.module=broken_method")
    assert "adapter.peft.module=broken_method cannot be imported: SyntaxError" in line


def test_a_method_that_puts_tokens_before_the_input_does_not_decode() -> None:
    config = compose_cell(
        ["model=tiny_gpt2", "task=e2e", "transform=miss", "adapter.peft.peft_type=PROMPT_TUNING"]
    ).config
    config.model.target_sets["qv"].fused = {}
    config.adapter.peft["num_virtual_tokens"] = 2
    with pytest.raises(UserError, match="puts tokens before the input, which data-to-text tasks do not support here"):
        build_model(config, load_tokenizer(config.model))
