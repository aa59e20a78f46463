"""The training loop against a loop written out by hand, and what it does when training cannot go on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_runs import (
    NO_DROPOUT,
    assert_same_outcome,
    cell_in,
    execute,
    finish,
    losses,
    record_of,
    rows,
    stop_at,
    tensors,
)
from torch.nn import functional as F
from transformers import get_linear_schedule_with_warmup

from mtlora.base.errors import UserError
from mtlora.config.schema import AdapterConfig, RunConfig, TrainConfig
from mtlora.data.batches import epoch_batches, sample_rows
from mtlora.data.sources import load_split
from mtlora.plan.cell import Cell
from mtlora.train import batches
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model
from mtlora.train.model.dropout import Masks
from mtlora.train.optimizer import learning_rate, make_optimizer

METHODS = ("lora", "shim", "icfm", "ctcm", "dtsm")


def plain_training(cell: Cell) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Train a cell in plain PyTorch, texts tokenised batch by batch; returns losses, rates and trained tensors."""
    config = cell.config
    t = config.train
    tokenizer = load_tokenizer(config.model)
    model = build_model(config, tokenizer)
    texts = load_split(config.task, config.data, "train")
    chosen = sample_rows(len(texts["label"]), config.train.limit_examples, "limit_examples", config.task.name)
    lengths = np.array([len(tokenizer(*(texts[c][i] for c in config.task.text_columns)).input_ids) for i in chosen])
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and not n.endswith("bias")]
    biases = [p for n, p in model.named_parameters() if p.requires_grad and n.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": t.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=t.learning_rate, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    total = t.epochs * -(-len(chosen) // t.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, -int(-t.warmup_ratio * total // 1), total)
    model.train()
    seen, rates = [], []
    for epoch in range(t.epochs):
        for batch in epoch_batches(lengths, t.batch_size, config.data.order, config.task.name, config.seed, epoch):
            columns = [[texts[name][i] for i in chosen[batch]] for name in config.task.text_columns]
            logits = model(**tokenizer(*columns, padding=True, return_tensors="pt")).logits
            labels = torch.tensor([texts["label"][i] for i in chosen[batch]])
            regression = config.task.kind == "regression"
            loss = F.mse_loss(logits[:, 0], labels) if regression else F.cross_entropy(logits, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decayed + biases, t.max_grad_norm)
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            seen.append(loss.item())
    return seen, rates, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_losses_and_updates_equal_a_plain_loop(task: str, tmp_path: Path) -> None:
    more = ["transform=dtsm", f"task={task}", "train.limit_examples=56", "train.weight_decay=0.5", *NO_DROPOUT]
    cell = cell_in(tmp_path, *more, "train.warmup_ratio=0.3", "train.max_grad_norm=0.3")
    expected, rates, trained = plain_training(cell)
    execute(cell)
    assert losses(cell.folder) == pytest.approx(expected, rel=1e-5)
    assert [row["learning_rate"] for row in rows(cell.folder) if "learning_rate" in row] == pytest.approx(rates)
    saved = tensors(cell.folder)
    assert len(saved) == len(trained) > 0
    for name, tensor in trained.items():
        name = name.replace(".modules_to_save.default", "").replace(".default", "")
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("ratio", "steps", "warmup"), [(0.0, None, 0), (0.06, None, 3), (0.5, None, 20), (0.9, 7, 7)])
def test_learning_rate_is_the_linear_schedule(ratio: float, steps: int | None, warmup: int) -> None:
    t = TrainConfig(learning_rate=0.1, lr_multiplier=6.0, warmup_ratio=ratio, warmup_steps=steps)
    config = RunConfig(train=t, adapter=AdapterConfig(rate=0.5))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, 40)
    for step in range(40):
        assert learning_rate(config, step, 40) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("decay_t", [True, False])
def test_decay_groups(decay_t: bool) -> None:
    config = cell_in(Path("unused"), "transform=ctcm").config
    model = build_model(config, load_tokenizer(config.model))
    t = TrainConfig(weight_decay=0.1, learning_rate=1.0, decay_t=decay_t)
    decay = {id(p): g["weight_decay"] for g in make_optimizer(model, t).param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        skips = name.endswith("bias") or (("mtlora_C" in name or "mtlora_D" in name) and not decay_t)
        expected = (0.0 if skips else 0.1) if parameter.requires_grad else None
        assert decay.get(id(parameter)) == expected, name


def test_accumulation_equals_a_larger_batch(tmp_path: Path) -> None:
    # 60 examples: the last step has 8 + 4, whose mean is not the mean of the two batches' means
    more = ["transform=shim", "data.order=random", "train.limit_examples=60", *NO_DROPOUT]
    _, large = finish(tmp_path, *more, "train.batch_size=16")
    _, small = finish(tmp_path, *more, "train.batch_size=8", "train.accumulation=2")
    assert len(losses(large)) == 8
    assert losses(small) == pytest.approx(losses(large), rel=1e-5)
    for name, tensor in tensors(large).items():
        torch.testing.assert_close(tensors(small)[name], tensor, rtol=1e-3, atol=2e-5)


def test_same_seed_is_bit_identical_and_another_seed_is_not(tmp_path: Path) -> None:
    _, one = finish(tmp_path / "one", "transform=ctcm")
    _, two = finish(tmp_path / "two", "transform=ctcm")
    _, other = finish(tmp_path / "one", "transform=ctcm", "seed=1")
    assert_same_outcome(one, two)
    assert losses(one) != losses(other)


def test_methods_see_the_same_batches_and_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    collate, drop = batches.collate, Masks.drop_each

    def recording_collate(encoded: Any, indices: np.ndarray, *rest: Any) -> Any:
        seen.append(tuple(indices.tolist()))
        return collate(encoded, indices, *rest)

    def recording_drop(self: Masks, x: torch.Tensor, rates: Sequence[float]) -> torch.Tensor:
        ones = drop(self, torch.ones_like(x), rates)  # the mask alone: one draw, as the real call makes
        seen.append(tuple((ones == 0).flatten().nonzero()[:20, 0].tolist()))
        return x * ones

    monkeypatch.setattr(batches, "collate", recording_collate)
    monkeypatch.setattr(Masks, "drop_each", recording_drop)
    drawn, first = {}, set()
    for method in METHODS:
        for rank in ("r2", "r4"):
            seen.clear()
            _, folder = finish(tmp_path, f"transform={method}", f"rank={rank}", "adapter.dropout=0.1", "train.epochs=1")
            drawn[method, rank] = list(seen)
            first.add(losses(folder)[0])
    assert len(drawn["lora", "r2"]) > 40
    assert all(draws == drawn["lora", "r2"] for draws in drawn.values())
    assert len(first) == 1, "with B = 0 the first loss is the same, whatever T is"


def test_tasks_share_no_dropout_and_methods_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    begin = Masks.begin_step
    monkeypatch.setattr(Masks, "begin_step", lambda self, given: seeds.extend(given) or begin(self, given))

    def drawn(*overrides: str) -> list[int]:
        seeds.clear()
        finish(tmp_path, "train.epochs=1", *overrides)
        return list(seeds)

    cola = drawn("task=cola", "transform=lora")
    assert len(set(cola)) == 4, "one seed for each step"
    assert drawn("task=cola", "transform=dtsm") == cola
    assert not set(drawn("task=rte", "transform=lora")) & set(cola)


@pytest.mark.parametrize("more", [["train.precision=bf16"], ["task=stsb"], ["data.order=random"], ["task=mnli"]])
def test_variants_run(more: list[str], tmp_path: Path) -> None:
    record, folder = finish(tmp_path, "train.epochs=1", *more)
    assert record.status == "success"
    assert all(np.isfinite(losses(folder)))
    assert {m["split"] for m in record.metrics} == set(cell_in(tmp_path, *more).config.task.metrics)


def test_padding_changes_shapes_not_losses(tmp_path: Path) -> None:
    more = ["train.epochs=1", "data.max_length=40", *NO_DROPOUT]
    _, longest = finish(tmp_path, *more)
    _, fixed = finish(tmp_path, *more, "data.padding=max_length")
    assert longest != fixed
    assert losses(fixed) == pytest.approx(losses(longest), rel=1e-5)


def test_limit_examples_limits_train_only(tmp_path: Path) -> None:
    record, folder = finish(tmp_path, "train.limit_examples=20", "train.epochs=1")
    cell = cell_in(tmp_path)
    evaluated = len((folder / "predictions.jsonl").read_text().splitlines())
    assert record.cost["steps"] == 2
    assert evaluated == len(load_split(cell.config.task, cell.config.data, "validation")["label"])


def test_a_sample_of_rows_depends_on_its_size_purpose_and_task_alone() -> None:
    limited = sample_rows(1000, 64, "limit_examples", "rte")
    assert len(set(limited)) == 64
    assert limited.max() < 1000
    assert np.array_equal(limited, sample_rows(1000, 64, "limit_examples", "rte"))
    assert not np.array_equal(limited, sample_rows(1000, 64, "limit_examples", "cola"))
    for limit in (None, 30, 9999):
        assert np.array_equal(sample_rows(30, limit, "limit_examples", "rte"), np.arange(30))


def fails(cell: Cell, reason: str) -> str:
    """Run a cell that must fail; check the error is one line and equals the record's reason."""
    with pytest.raises(UserError) as error:
        execute(cell)
    record = record_of(cell)
    assert record.status == "failed"
    assert record.error is not None
    assert reason in record.error
    assert record.error in str(error.value)
    assert "\n" not in str(error.value)
    assert record.metrics == []
    return record.error


def test_huge_learning_rate_fails_with_its_reason(tmp_path: Path) -> None:
    assert "lower train.learning_rate" in fails(cell_in(tmp_path, "train.learning_rate=1e30"), "at or shortly before")


def test_a_run_that_diverged_fails_again_at_the_same_step(tmp_path: Path) -> None:
    cell = cell_in(tmp_path, "train.learning_rate=1e30", "train.checkpoint_seconds=0")
    assert fails(cell, "shortly before step") == fails(cell, "shortly before step")


@pytest.mark.parametrize(("loss", "norm", "what"), [("nan", 1.0, "training loss"), (0.5, "inf", "gradient norm")])
def test_a_number_that_is_not_finite(
    loss: Any, norm: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = [torch.tensor(float(loss))], [torch.tensor(float(norm))]
    monkeypatch.setattr("mtlora.train.loop.SoloStep.__call__", lambda *args: answer)
    assert "shortly before step 1:" in fails(cell_in(tmp_path), f"the {what} is {loss if loss == 'nan' else norm}")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other API call"),
        MemoryError(),
    ],
)
def test_out_of_memory_gives_advice(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3, error)
    fails(cell_in(tmp_path), "out of memory: lower train.batch_size")


def test_an_unexpected_error_leaves_its_traceback_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3, RuntimeError("something\nodd"))
    cell = cell_in(tmp_path)
    message = fails(cell, "RuntimeError: something odd")
    log = cell.folder / "error.log"
    assert str(log) in message
    assert "Traceback" in log.read_text()
    monkeypatch.undo()
    assert execute(cell).status == "success"
    assert record_of(cell).error is None
    assert not log.exists(), "the traceback of an earlier attempt"
