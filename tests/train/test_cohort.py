"""Runs in lock-step equal runs alone, keep their own records and checkpoints, and do not hurt each other."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_runs import assert_same_outcome, cell_in, execute, losses, record_of, rows, stop_at, tensors

from mtlora.base.errors import CohortUnsupported, UserError
from mtlora.base.files import only_process
from mtlora.data.encoding import Encoded
from mtlora.plan.cell import Cell, compose_cell, with_seed
from mtlora.score import text
from mtlora.train import evaluation, execution, lifecycle
from mtlora.train.cohort.fit import kept_bytes
from mtlora.train.cohort.grouping import cohort_key, cohorts
from mtlora.train.compute import make_accelerator
from mtlora.train.execution import execute as train_together
from mtlora.train.outcome import Outcome, Status
from mtlora.train.run import Run
from mtlora.train.state import CHECKPOINT

# Every structure; other seeds, step sizes, rates, schedules and dropout beside each other.
MEMBERS = (
    ("transform=lora", "seed=0"),
    ("transform=shim", "seed=0"),
    ("transform=shim", "seed=1", "train.learning_rate=0.001", "train.weight_decay=0.5"),
    ("transform=icfm", "seed=2", "adapter.alpha=4"),
    ("transform=ctcm", "seed=0", "train.max_grad_norm=0", "adapter.use_rslora=true"),
    ("transform=dtsm", "seed=3", "adapter.dropout=0.1", "train.warmup_ratio=0.5"),
    ("transform=dtsm", "seed=0", "adapter.dropout=0.1", "train.max_grad_norm=0.01"),
)


def members(results: Path, *more: str) -> list[Cell]:
    return [cell_in(results, *one, *more) for one in MEMBERS]


def assert_equal_to_rounding(cell: Cell, alone: Cell) -> None:
    record, other = record_of(cell), record_of(alone)
    assert record.status == other.status == "success"
    assert record.cost["tokens"] == other.cost["tokens"]
    assert record.cost["steps"] == other.cost["steps"]
    assert [{**m, "value": pytest.approx(m["value"], rel=1e-4, abs=1e-3)} for m in record.metrics] == other.metrics
    assert losses(cell.folder) == pytest.approx(losses(alone.folder), rel=1e-5)
    norms = [[row["grad_norm"] for row in rows(c.folder) if "grad_norm" in row] for c in (cell, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    trained, expected = tensors(cell.folder), tensors(alone.folder)
    assert trained.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (trained[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


@pytest.mark.parametrize(
    "more",
    [
        ("task=rte",),
        ("task=stsb", "train.accumulation=2"),
        ("task=cola", "train.limit_examples=60", "targets=all"),
        ("task=cola", "train.limit_examples=60", "data.padding=max_length", "data.max_length=12"),
    ],
    ids=["pairs", "regression, accumulation", "incomplete batch, all modules", "padded to one length"],
)
def test_a_cohort_equals_runs_alone(more: tuple[str, ...], tmp_path: Path) -> None:
    together, alone = members(tmp_path / "together", *more), members(tmp_path / "alone", *more)
    outcomes = train_together(together)
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * len(together)
    for cell in alone:
        execute(cell)
    for cell, other, outcome in zip(together, alone, outcomes, strict=True):
        assert_equal_to_rounding(cell, other)
        record = record_of(cell)
        assert outcome.record == record
        assert record.provenance["cohort"]["runs"] == len(together)
        assert set(record.provenance["cohort"]["members"]) == {c.run_id for c in together}
        assert not (cell.folder / CHECKPOINT).exists()


def test_in_bf16_a_cohort_is_as_near_to_fp32_as_runs_alone(tmp_path: Path) -> None:
    def made(name: str, precision: str) -> list[Cell]:
        more = ("task=rte", "train.epochs=1", f"train.precision={precision}")
        return [cell_in(tmp_path / name, *one, *more) for one in MEMBERS]

    together, alone, exact = made("together", "bf16"), made("alone", "bf16"), made("exact", "fp32")
    assert [outcome.status for outcome in train_together(together)] == [Status.DONE] * len(together)
    for cell in (*alone, *exact):
        execute(cell)

    def errors(cells: list[Cell]) -> list[float]:
        """Return each run's distance from the run in fp32, relative to the latter's norm."""
        found = []
        for cell, other in zip(cells, exact, strict=True):
            own, wanted = (torch.cat([t.flatten() for t in tensors(c.folder).values()]) for c in (cell, other))
            found.append(float((own - wanted).norm() / wanted.norm()))
        return found

    in_cohort, by_itself = errors(together), errors(alone)
    assert min(by_itself) > 1e-5, "bf16 rounds"
    assert np.mean(np.log(in_cohort)) == pytest.approx(np.mean(np.log(by_itself)), abs=np.log(1.5)), (
        in_cohort,
        by_itself,
    )


# Frozen factors, rates of their own for T and B, another alpha, a rate as tuning gives it.
CONTROLS = (
    ("transform=shim_frozen", "protocol=matched"),
    ("transform=ctcm_frozen", "protocol=published", "seed=1"),
    ("transform=dtsm", "protocol=matched", "train.lr_ratio_t=4"),
    ("transform=icfm", "protocol=matched", "train.lr_ratio_b=8", "train.decay_t=false", "train.weight_decay=0.5"),
    ("transform=ctcm", "protocol=matched", "train.lr_ratio_t=0.25", "train.lr_ratio_b=2"),
    ("transform=lora_plus",),
    ("transform=lora_scaled", "train.lr_multiplier=0.5"),
    ("transform=shim", "protocol=matched", "train.lr_multiplier=2", "adapter.init_weights=identity_t"),
    ("transform=rslora",),
)


def test_a_cohort_of_control_arms_equals_runs_alone(tmp_path: Path) -> None:
    more = ("task=cola", "train.epochs=1")
    together, alone = ([cell_in(tmp_path / name, *one, *more) for one in CONTROLS] for name in ("together", "alone"))
    assert len({cohort_key(cell) for cell in together}) == 1
    assert [outcome.status for outcome in train_together(together)] == [Status.DONE] * len(together)
    for cell, other in zip(together, alone, strict=True):
        execute(other)
        assert_equal_to_rounding(cell, other)
        assert record_of(cell).effective == record_of(other).effective
        assert record_of(cell).parameters == record_of(other).parameters
        assert record_of(cell).provenance["cohort"]["runs"] == len(together)


def test_other_methods_train_alone_and_leave_the_backbone_as_it_is(tmp_path: Path) -> None:
    methods = ("lora", "pissa", "vera", "full", "shim", "dora")
    more = ("task=cola", "train.epochs=1", "train.limit_examples=32")
    before = [cell_in(tmp_path / "before", f"transform={t}", *more) for t in ("lora", "shim")]
    train_together(before)
    alone = [cell_in(tmp_path / "alone", f"transform={t}", *more) for t in ("lora", "shim")]
    for cell in alone:
        execute(cell)
    sweep = [cell_in(tmp_path / "sweep", f"transform={t}", *more) for t in methods]
    groups = cohorts(sweep, 25, 1)
    assert sorted([c.config.adapter.method for c in group] for group in groups) == [
        ["dora"], ["full"], ["lora", "shim"], ["pissa"], ["vera"],
    ]  # fmt: skip
    for group in sorted(groups, key=len):  # LoRA and SHIM come last
        assert [outcome.status for outcome in train_together(group)] == [Status.DONE] * len(group)
    for first, second in ((before[0], sweep[0]), (before[1], sweep[4])):
        assert_equal_to_rounding(second, first)
        assert (first.folder / "predictions.jsonl").read_bytes() == (second.folder / "predictions.jsonl").read_bytes()
    for cell in alone:
        again = cell_in(tmp_path / "again", f"transform={cell.config.adapter.method}", *more)
        execute(again)
        assert_same_outcome(again.folder, cell.folder)


def test_a_cohort_of_decoders_equals_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "java_works", lambda: False)
    base = [
        "model=tiny_gpt2",
        "task=webnlg",
        "rank=r2",
        "train.limit_examples=24",
        "train.epochs=2",
        "train.batch_size=8",
    ]
    base += ["train.limit_validation=10", "decode.limit_contexts=3", "decode.max_new_tokens=6", "decode.beams=2"]
    base += ["train.log_every=1", "compute.threads=1"]
    two = [
        [compose_cell([*base, f"transform={t}", f"seed={s}", f"results={tmp_path / name}"]) for t, s in variants]
        for name in ("together", "alone")
        for variants in [(("lora", 0), ("shim", 0), ("icfm", 1), ("ctcm", 2), ("dtsm", 0))]
    ]
    outcomes = train_together(two[0])
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * 5
    for cell, other in zip(*two, strict=True):
        execute(other)
        assert_equal_to_rounding(cell, other)


def test_models_that_share_more_than_the_backbone_train_one_after_another(tmp_path: Path) -> None:
    deberta = [
        "model.architecture.model_type=deberta-v2",
        "+model.architecture.relative_attention=true",
        "+model.architecture.pos_att_type=[p2c,c2p]",
        "+model.architecture.position_buckets=8",
        "targets=official",
    ]
    cells = [cell_in(tmp_path, *deberta, f"transform={t}") for t in ("lora", "shim", "icfm", "ctcm", "dtsm")]
    assert [outcome.status for outcome in train_together(cells)] == [Status.DONE] * 5
    alone = cell_in(tmp_path / "alone", *deberta, "transform=dtsm")
    execute(alone)
    assert_equal_to_rounding(cells[-1], alone)
    assert all("cohort" not in record_of(cell).provenance for cell in cells)


def test_models_that_draw_other_random_numbers_train_one_after_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OPT calls F.dropout, whose numbers cannot be drawn for each run by itself."""
    opt = ["model.architecture.model_type=opt", "+model.architecture.ffn_dim=64", "model.head=[score]"]
    opt += ["+model.architecture.word_embed_proj_dim=32", "+model.architecture.pad_token_id=0"]
    opt += ["model.target_sets.qv.modules='.*\\.self_attn\\.(q|v)_proj'"]
    cells = [cell_in(tmp_path, *opt, f"transform={t}") for t in ("lora", "dtsm")]
    with caplog.at_level("INFO"):
        assert [outcome.status for outcome in train_together(cells)] == [Status.DONE] * 2
    assert "2 runs train one after another: the model draws random numbers outside of its nn.Dropout" in caplog.text
    alone = cell_in(tmp_path / "alone", *opt, "transform=dtsm")
    execute(alone)
    assert_equal_to_rounding(cells[-1], alone)
    assert all("cohort" not in record_of(cell).provenance for cell in cells)


def test_the_time_of_a_cohort_is_shared_out(tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}") for seed in range(3)]
    train_together(cells[:1])  # imports and caches
    started = time.monotonic()
    train_together(cells)
    whole = time.monotonic() - started
    cost = [record_of(cell).cost for cell in cells[1:]]
    assert sum(c["train_seconds"] for c in cost) <= sum(c["seconds"] for c in cost) <= whole


def test_the_end_of_a_run_costs_the_others_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, complete, errors = [0.0], lifecycle.complete, iter([KeyboardInterrupt()])

    def slow(*arguments: Any) -> None:
        clock[0] += 100  # as for decoding
        for error in errors:
            raise error
        complete(*arguments)

    monkeypatch.setattr("mtlora.train.run.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(lifecycle, "complete", slow)
    cells = [cell_in(tmp_path, f"seed={seed}", f"train.epochs={1 + seed // 2}") for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        train_together(cells)
    assert [outcome.status for outcome in train_together(cells)] == [Status.DONE] * 3
    assert [record_of(cell).cost["seconds"] for cell in cells] == [0, 0, 0]


def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    cells = [
        cell_in(tmp_path, "seed=0"),
        cell_in(tmp_path, "seed=1", "train.learning_rate=1e30"),
        cell_in(tmp_path, "seed=2"),
    ]
    first, second, third = train_together(cells)
    assert second.record is None
    assert "the training loss is" in second.reason or "gradient norm" in second.reason
    assert record_of(cells[1]).status == "failed"
    for cell, outcome in ((cells[0], first), (cells[2], third)):
        assert outcome.status == Status.DONE
        alone = cell_in(tmp_path / "alone", f"seed={cell.config.seed}")
        execute(alone)
        assert_equal_to_rounding(cell, alone)


def test_a_run_whose_answers_are_not_numbers_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*arguments: Any) -> Any:
        answers = evaluation.predict(*arguments)
        answers[1]["validation"] = None
        return answers

    monkeypatch.setattr("mtlora.train.cohort.step.predict", predict)
    cells = [cell_in(tmp_path, f"seed={seed}", "train.epochs=1") for seed in range(3)]
    outcomes = train_together(cells)
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.FAILED, Status.DONE]
    assert "predictions on validation are not finite: lower train.learning_rate" in outcomes[1].reason


def test_answers_of_all_runs_are_those_of_each(tmp_path: Path) -> None:
    """One forward pass for all runs gives each run's own logits, and marks only the run whose logits are not finite."""
    config = cell_in(tmp_path, "task=stsb", "train.eval_batch_size=3").config
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 9, 10)
    offsets = np.concatenate([[0], lengths.cumsum()])
    texts = Encoded(generator.integers(1, 9, offsets[-1]).astype(np.int32), None, offsets, np.zeros(10))
    data = evaluation.RunData(texts, np.arange(10), {"validation": texts}, 0)
    factors = torch.tensor([1.0, -2.0, torch.nan])

    def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (batch["input_ids"] * batch["attention_mask"]).sum(1)[None, :, None] * factors[:, None, None]

    first, second, third = evaluation.predict(config, make_accelerator(config), forward, data, 3)
    sums = np.add.reduceat(texts.input_ids, offsets[:-1])
    assert first["validation"].tolist() == sums.tolist()
    assert second["validation"].tolist() == (-2 * sums).tolist()
    assert third["validation"] is None


def test_runs_of_other_lengths_leave_when_they_end(tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}", f"train.epochs={1 + seed}") for seed in range(3)]
    assert all(outcome.status == Status.DONE for outcome in train_together(cells))
    assert [len(record_of(cell).epochs) for cell in cells] == [1, 2, 3]
    alone = cell_in(tmp_path / "alone", "seed=2", "train.epochs=3")
    execute(alone)
    assert_equal_to_rounding(cells[2], alone)


@pytest.mark.parametrize("then", ["alone", "together"])
def test_an_interrupted_cohort_goes_on(then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = members(tmp_path)[:3]
    with monkeypatch.context() as patch:
        stop_at(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_together(cells)
    for cell in cells:
        assert record_of(cell).status == "interrupted"
        assert (cell.folder / CHECKPOINT).exists()
    execute(cells[0])  # one goes on alone; the other two stay behind it
    assert record_of(cells[0]).provenance["cohort"]["runs"] == 3, "it has trained in one"
    if then == "together":
        (cells[1].folder / CHECKPOINT).unlink()  # of these two, one begins anew
        assert all(outcome.status == Status.DONE for outcome in train_together(cells))
    else:
        for cell in cells:
            execute(cell)
    for cell, alone in zip(cells, members(tmp_path / "alone")[:3], strict=True):
        execute(alone)
        assert_equal_to_rounding(cell, alone)


def test_an_interruption_adds_no_time_to_a_run_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}") for seed in range(2)]
    clock = [0.0]
    monkeypatch.setattr("mtlora.train.run.time", SimpleNamespace(monotonic=lambda: clock[0]))
    stop_at(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train_together(cells)
    (cells[1].folder / CHECKPOINT).unlink()  # it begins anew, while the other one waits

    @contextmanager
    def bar(title: str) -> Iterator[Any]:
        def on_step(done: int, total: int) -> None:
            clock[0] += 100
            raise KeyboardInterrupt

        yield on_step

    monkeypatch.setattr("mtlora.train.execution.show_progress", bar)
    with pytest.raises(KeyboardInterrupt):
        train_together(cells)
    assert [torch.load(cell.folder / CHECKPOINT)["state"]["seconds"] for cell in cells] == [0, 100]


class Killed(BaseException):
    """Stands for a kill, which nothing handles."""


@pytest.mark.parametrize(
    ("where", "error", "places"),
    [("evaluate", KeyboardInterrupt, {(0, 4)}), ("end_epoch", Killed, {(0, 4), (1, 0)})],
)
def test_a_cohort_stopped_at_the_end_of_an_epoch_goes_on(
    where: str,
    error: type[BaseException],
    places: set[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}", "train.checkpoint_seconds=0") for seed in range(2)]
    whole = getattr(Run, where)

    def stopped(run: Run, *arguments: Any) -> Any:
        if run.config.seed == 1:
            raise error
        return whole(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, where, stopped)
        with pytest.raises(error):
            train_together(cells)
    states = [torch.load(cell.folder / CHECKPOINT)["state"] for cell in cells]
    assert {(state["epoch"], state["epoch_step"]) for state in states} == places
    assert [outcome.status for outcome in train_together(cells)] == [Status.DONE] * 2
    for cell in cells:
        alone = cell_in(tmp_path / "alone", f"seed={cell.config.seed}", "train.checkpoint_seconds=0")
        execute(alone)
        assert_equal_to_rounding(cell, alone)


def test_what_hits_all_asks_for_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(execution, "train", too_much)
    cells = members(tmp_path)[:2]
    assert train_together(cells) == [Outcome(Status.RETRY)] * 2


def test_an_error_in_our_code_fails_every_run_of_the_cohort_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, rates: Any) -> None:
        raise RuntimeError("a mistake in our code")

    monkeypatch.setattr("mtlora.train.cohort.step.CohortAdamW.step", broken)
    cells = members(tmp_path)[:2]
    for cell, outcome in zip(cells, train_together(cells), strict=True):
        assert outcome.status == Status.FAILED
        assert "RuntimeError: a mistake in our code" in outcome.reason
        assert record_of(cell).status == "failed"
        assert "in broken" in (cell.folder / "error.log").read_text()


def test_a_device_that_is_not_there_fails_every_run_in_one_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    cells = [cell_in(tmp_path, f"seed={seed}", "compute.device=cuda") for seed in range(2)]
    for cell, outcome in zip(cells, train_together(cells), strict=True):
        assert outcome.status == Status.FAILED
        assert "compute.device=cuda: this PyTorch sees no CUDA device" in outcome.reason
        assert "\n" not in outcome.reason
        assert record_of(cell).status == "failed"


def test_a_record_that_cannot_be_written_fails_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}", "train.epochs=1") for seed in range(3)]
    end = lifecycle.end

    def full_disk(cell: Cell, *rest: Any) -> None:
        if cell.config.seed == 1:
            raise UserError("cannot write record.json (No space left on device)")
        end(cell, *rest)

    monkeypatch.setattr(lifecycle, "end", full_disk)
    outcomes = train_together(cells)
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.FAILED, Status.DONE]
    assert "No space left on device" in outcomes[1].reason


def test_an_interruption_after_the_cohort_was_refused_leaves_no_run_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise CohortUnsupported("for the test")

    monkeypatch.setattr("mtlora.train.cohort.step.Network", refuse)
    stop_at(monkeypatch, 3, KeyboardInterrupt())
    cells = [cell_in(tmp_path, f"seed={seed}") for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        train_together(cells)
    assert [record_of(cell).status for cell in cells] == ["interrupted"] * 3


def test_what_cannot_be_stacked_trains_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise CohortUnsupported("for the test")

    monkeypatch.setattr("mtlora.train.cohort.step.Network", refuse)
    cells = [
        cell_in(tmp_path, "seed=0"),
        cell_in(tmp_path, "seed=1", "train.learning_rate=1e30"),
        cell_in(tmp_path, "seed=2"),
    ]
    outcomes = train_together(cells)
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.FAILED, Status.DONE]
    assert all("cohort" not in record_of(cell).provenance for cell in cells)
    alone = cell_in(tmp_path / "alone", "seed=2")
    execute(alone)
    assert_equal_to_rounding(cells[2], alone)


def test_each_run_of_a_cohort_is_tracked_by_itself(tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}", "tracking=wandb", "train.epochs=1") for seed in range(2)]
    assert all(outcome.status == Status.DONE for outcome in train_together(cells))
    for cell in cells:
        (tracked,) = cell.folder.rglob("*.wandb")
        assert cell.run_id in tracked.name


def test_finished_and_busy_cells_are_left_out(tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}") for seed in range(4)]
    execute(cells[0])
    before = (cells[0].folder / "record.json").read_bytes()
    with only_process(cells[1].lock, "held by this test"):
        outcomes = train_together(cells)
    assert (cells[0].folder / "record.json").read_bytes() == before
    assert outcomes[0].record is not None
    assert outcomes[1].status == Status.BUSY
    assert record_of(cells[2]).provenance["cohort"]["runs"] == 2


def test_a_missing_parent_fails_one_run(tmp_path: Path) -> None:
    cells = [
        cell_in(tmp_path, "seed=0"),
        cell_in(tmp_path, "seed=0", "task=cola", "init_from=rte"),
        cell_in(tmp_path, "seed=1"),
    ]
    first, second, third = train_together(cells)
    assert second.status == Status.FAILED
    assert "init_from=rte: its run is not finished" in second.reason
    assert first.status == third.status == Status.DONE


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("seed=1", True),
        ("transform=icfm", True),
        ("rank=r8", False),
        ("transform=shim_frozen", True),
        ("transform=lora_scaled", True),
        ("transform=lora_plus", True),
        ("protocol=published", True),
        ("train.lr_multiplier=2", True),
        ("tuned_choice=second", True),
        ("train.lr_ratio_b=2", True),
        ("transform=dora", False),
        ("transform=vera", False),
        ("transform=full", False),
        ("adapter.dropout=0.1", True),
        ("train.learning_rate=1", True),
        ("train.epochs=9", True),
        ("train.batch_size=8", False),
        ("train.accumulation=2", False),
        ("train.limit_examples=32", False),
        ("train.precision=bf16", False),
        ("task=rte", False),
        ("targets=all", False),
        ("data.order=random", False),
        ("data.max_length=64", False),
        ("results=elsewhere", False),
    ],
)
def test_which_runs_train_together(override: str, same: bool) -> None:
    one, other = (compose_cell(["model=tiny", "task=cola", "rank=r2", *more]) for more in ([], [override]))
    assert (cohort_key(one) == cohort_key(other)) == same


def task_and_seed(cohort: list[Cell]) -> list[tuple[str, int]]:
    return [(cell.config.task.name, cell.config.seed) for cell in cohort]


def test_cohorts_are_bounded_shared_evenly_and_enough_for_the_children() -> None:
    composed = {
        (transform, task): compose_cell(["model=tiny", f"task={task}", f"transform={transform}"])
        for transform in ("lora", "shim", "dtsm")
        for task in ("cola", "rte")
    }
    cells = [
        with_seed(composed[transform, task], seed)
        for transform in ("lora", "shim", "dtsm")
        for seed in range(4)
        for task in ("cola", "rte")
    ]
    one = {task: [(task, seed) for seed in range(4) for _ in range(3)] for task in ("cola", "rte")}
    assert [task_and_seed(c) for c in cohorts(cells, 25, 1)] == [one["cola"], one["rte"]], (
        "runs of one seed are neighbours"
    )
    assert [task_and_seed(c) for c in cohorts(cells, 6, 1)] == [
        half for task in ("cola", "rte") for half in (one[task][:6], one[task][6:])
    ]
    assert list(map(len, cohorts(cells, 8, 1))) == [6, 6, 6, 6], "of about one length"
    assert list(map(len, cohorts(cells, 25, 2))) == [6, 6, 6, 6], "every child gets a part of every group"
    assert list(map(len, cohorts(cells, 25, 6))) == [4] * 6, "of five runs at least, but so that no child is idle"
    assert sorted(map(len, cohorts(cells[:10:2], 25, 4))) == [1, 1, 1, 2]
    assert list(map(len, cohorts(cells[:2], 25, 4))) == [1, 1]
    assert sum(map(len, cohorts(cells, 25, 7))) == len(cells)


def test_copies_of_weights_in_bf16_are_no_activations(tmp_path: Path) -> None:
    """Autocast keeps a copy of each weight, once for all rows: it does not grow with the number of runs."""
    wide = ("model.architecture.hidden_size=256", "model.architecture.intermediate_size=1024", "targets=all")
    found = {}
    for precision in ("fp32", "bf16"):
        cell = cell_in(tmp_path, *wide, f"train.precision={precision}")
        accelerator = make_accelerator(cell.config)
        run = lifecycle.prepare(cell, lifecycle.new_record(cell), accelerator, shared=True)
        found[precision] = kept_bytes(run, accelerator)
        linear = sum(m.base_layer.weight.numel() for m in run.model.modules() if hasattr(m, "mtlora_A"))
    (row, shared), (half_row, half_shared) = found["fp32"], found["bf16"]
    # two bytes a value; the first layer's are not needed, as no gradient goes back to its input
    assert 1.5 * linear < half_shared - shared < 2.5 * linear
    assert half_row < row
