"""The life of one run: skip if finished, mark as running, train, record, and say in one line what failed."""

import logging
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mtlora.base.errors import RunFailed, UserError
from mtlora.base.files import only_process, sync, write_jsonl
from mtlora.base.processes import is_first, rank, world_size
from mtlora.base.progress import show_progress
from mtlora.config.metrics import METRICS
from mtlora.config.schema import RunConfig, TaskConfig, transform_name
from mtlora.data.batches import sample_rows
from mtlora.data.contexts import Group
from mtlora.data.encoding import encode
from mtlora.data.prompting import pad_token
from mtlora.data.sources import evaluation_splits, load_split, low_resource
from mtlora.plan.cell import Cell, digest
from mtlora.records.provenance import now, provenance
from mtlora.records.record import RECORD, RunRecord, record_status
from mtlora.score.compute import baseline, require_text_packages
from mtlora.train.compute import make_accelerator
from mtlora.train.evaluation import RunData
from mtlora.train.loop import Run, train
from mtlora.train.memory import peak_memory_bytes, reset_peak_memory
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model, count_parameters, load_adapter_tensors, set_output_bias
from mtlora.train.state import CHECKPOINT, Progress
from mtlora.train.tracking import NullTracker, make_tracker

log = logging.getLogger(__name__)

ERROR_LOG = "error.log"


def execute(cell: Cell) -> RunRecord:
    """Train a cell unless its record says success; the record on disk tells the outcome in every case.

    Started by `torchrun`, every process of the run calls it.

    Raises:
        UserError: the run failed, in one line; a traceback of an unexpected error is in the run's `error.log`.
    """
    if not is_first():
        return _assist(cell)
    with owned(cell):
        return _execute(cell)


def owned(cell: Cell) -> AbstractContextManager[None]:
    """Hold a cell's lock.

    Raises:
        Busy: another process is training it.
    """
    return only_process(cell.lock, f"{cell.run_id} is being trained by another process: wait for it, or end it")


def _assist(cell: Cell) -> RunRecord:
    """Train as one of several processes; what becomes of the run is the first one's to say."""
    record = new_record(cell)
    if record_status(cell.folder) != "success":
        try:
            _train(cell, record)
        except Exception as error:
            raise UserError(f"process {rank()} of {cell.run_id} ended: {' '.join(str(error).split())[:200]}") from None
    return record


def _execute(cell: Cell) -> RunRecord:
    if (record := finished_record(cell)) is not None:
        return record
    record = begin(cell)
    try:
        _train(cell, record)
    except BaseException as error:
        end(cell, record, error)
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        if stopped or (isinstance(error, UserError) and not isinstance(error, RunFailed)):
            raise
        raise UserError(f"{cell.run_id} failed: {record.error}") from None
    end(cell, record)
    return record


def finished_record(cell: Cell) -> RunRecord | None:
    """Return the record of a finished run, with all metrics that can be had here; None if it is not finished."""
    if record_status(cell.folder) != "success":
        return None
    log.info("%s is finished already: skipped", cell.run_id)
    return _with_all_metrics(cell, RunRecord.load(cell.folder / RECORD))


def begin(cell: Cell) -> RunRecord:
    """Write the record of a run that starts now.

    Raises:
        UserError: the run whose adapter it starts from is not finished, or the folder cannot be written.
    """
    if cell.parent is not None and record_status(cell.parent.folder) != "success":
        command = shlex.join(cell.parent.overrides)
        raise UserError(
            f"init_from={cell.config.init_from}: its run is not finished in {cell.parent.folder}: "
            f"run `python -m mtlora.train {command}` first, or set init_from=none"
        )
    record = new_record(cell)
    record.save(cell.folder)
    (cell.folder / ERROR_LOG).unlink(missing_ok=True)  # of an earlier attempt
    return record


def end(cell: Cell, record: RunRecord, error: BaseException | None = None) -> None:
    """Write the record of a run that has ended, by itself or by an exception."""
    record.status = "success"
    if error is not None:
        record.status, record.error = outcome_of(error, cell.folder)
    record.provenance["ended"] = now()
    record.save(cell.folder)
    if error is None:
        (cell.folder / CHECKPOINT).unlink(missing_ok=True)


@dataclass
class Prepared:
    """A run that is ready to train; `groups` are what a generation task decodes at the end."""

    cell: Cell
    record: RunRecord
    tokenizer: Any
    groups: list[Group]
    run: Run


def prepare(cell: Cell, record: RunRecord, accelerator: Accelerator, shared: bool = False) -> Prepared:
    """Load data and model, and enter into the record what is known before training.

    Args:
        shared: use the frozen tensors of the other runs of this process (`models.fresh_backbone`).

    Raises:
        UserError: something that the run needs is missing; asked before hours of training.
    """
    config = cell.config
    if config.task.kind == "generation":
        require_text_packages()
    record.provenance |= provenance(accelerator.device) | {"processes": world_size()}
    if is_first():
        record.save(cell.folder)
    with accelerator.main_process_first():  # it fills the caches
        tokenizer, data = load_data(cell)
    model = build_model(config, tokenizer, shared)
    if config.train.mean_bias:
        set_output_bias(model, float(data.train.labels[data.train_rows].mean()))
    if cell.parent is not None:
        load_adapter_tensors(model, cell.parent.folder)
    record.parameters = count_parameters(model)
    record.baselines = baselines(config.task, data)
    groups: list[Group] = []
    if config.task.kind == "generation":
        from mtlora.train.decode.decoding import prepare_groups

        groups = prepare_groups(config, model, tokenizer)
    tracker = make_tracker(cell, cell.folder) if is_first() else NullTracker()
    identity = f"{cell.sha} on {accelerator.device.type}"  # dropout differs between kinds of device
    return Prepared(cell, record, tokenizer, groups, Run(config, model, data, cell.folder, identity, tracker))


def complete(prepared: Prepared, accelerator: Accelerator) -> None:
    """Save the adapter of a trained run, decode and score, and enter the results into the record."""
    cell, record, run = prepared.cell, prepared.record, prepared.run
    if is_first():
        run.model.save_pretrained(str(cell.folder))
        sync(cell.folder / "adapter_model.safetensors")  # before the record says that it is there
        (cell.folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, not filled in
    if run.progress.cohort is not None:
        record.provenance["cohort"] = run.progress.cohort
    record.epochs, record.cost = run.progress.epochs, cost(run.progress, accelerator.device)
    if cell.config.task.kind == "generation":
        record.metrics = _decode_and_score(cell, run.model, prepared.tokenizer, prepared.groups, record.cost)
    else:
        record.metrics = last_and_best(run.progress.epochs)
        if is_first():
            write_jsonl(cell.folder / "predictions.jsonl", prediction_rows(run.data, run.predictions))
    values = {f"{m['selection']}/{m['split']}/{m['name']}": m["value"] for m in record.metrics}
    run.tracker.log(values, run.progress.step)


def _train(cell: Cell, record: RunRecord) -> None:
    accelerator = make_accelerator(cell.config)
    reset_peak_memory(accelerator.device)
    prepared = prepare(cell, record, accelerator)
    finished = False
    try:
        with show_progress(cell.run_id) as on_step:
            train(prepared.run, accelerator, on_step)
        complete(prepared, accelerator)
        finished = True
    finally:
        prepared.run.tracker.finish(finished)


def _with_all_metrics(cell: Cell, record: RunRecord) -> RunRecord:
    """Score a finished run's texts again if a metric is missing, as where Java was installed after the run."""
    wanted = {(split, name) for split, names in cell.config.task.metrics.items() for name in names}
    texts = cell.folder / "predictions.jsonl"
    if cell.config.task.kind != "generation" or not texts.exists():
        return record
    if wanted <= {(entry["split"], entry["name"]) for entry in record.metrics}:
        return record
    from mtlora.records.predictions import read_records
    from mtlora.score.generated import score

    record.metrics = _entries(score(cell.config.task, *read_records(texts), experiment_id=cell.sha))
    record.save(cell.folder)
    return record


def _entries(scores: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [metric_entry(name, split, "last", v) for split, values in scores.items() for name, v in values.items()]


def _decode_and_score(
    cell: Cell, model: Any, tokenizer: Any, groups: list[Group], cost: dict[str, Any]
) -> list[dict[str, Any]]:
    """Decode the test split, keep the texts, and return the metrics of the last epoch; `cost` gets decode_seconds.

    Of several processes all decode and the first one scores.
    """
    from mtlora.score.generated import score
    from mtlora.train.decode.decoding import decode

    config = cell.config
    started = time.monotonic()
    with show_progress(f"{cell.run_id}, decoding", "texts") as on_progress:
        texts = decode(config, model, tokenizer, [group.context for group in groups], on_progress)
    cost["decode_seconds"] = time.monotonic() - started
    if not is_first():
        return []
    rows = ({**asdict(group), "prediction": text} for group, text in zip(groups, texts, strict=True))
    write_jsonl(cell.folder / "predictions.jsonl", rows)
    return _entries(score(config.task, groups, texts, experiment_id=cell.sha))


def baselines(task: TaskConfig, data: RunData) -> list[dict[str, Any]]:
    """List the score of the majority answer for every metric and split; generated texts have none."""
    if task.kind == "generation":
        return []
    return [
        {"name": name, "split": split, "value": baseline(name, encoded.labels)}
        for split, encoded in data.evaluation.items()
        for name in task.metrics[split]
    ]


def new_record(cell: Cell) -> RunRecord:
    """Return the record of a run that starts now."""
    c = cell.config
    identity = cell.identity
    return RunRecord(
        run_id=cell.run_id,
        config_sha=cell.sha,
        suite=c.task.suite,
        task=c.task.name,
        model=c.model.name,
        transform=transform_name(c),
        rank=c.adapter.r,
        seed=c.seed,
        targets=c.targets,
        profile=c.profile,
        config=asdict(c),
        overrides=list(cell.overrides),
        low_resource=low_resource(c.task, c.data),
        provenance={key: identity[key] for key in ("data_content", "model_content", "parent", "protocol")}
        | {"argv": sys.argv[1:], "started": now()},
    )


_data: dict[str, tuple[Any, RunData]] = {}


def load_data(cell: Cell) -> tuple[Any, RunData]:
    """Return the tokenizer, and the encoded training split and every evaluation split that the source has.

    Those of the last run of this process are kept for the next.
    """
    config = cell.config
    content = cell.identity["data_content"]
    parts = [asdict(part) for part in (config.model, config.task, config.data)]
    key = digest([content, parts, config.train.limit_examples, config.results])
    if key not in _data:
        _data.clear()
        _data[key] = _load_data(config, content)
    return _data[key]


def _load_data(config: RunConfig, content: str) -> tuple[Any, RunData]:
    cache = Path(config.results) / "cache"
    tokenizer = load_tokenizer(config.model)

    def encoded(split: str) -> Any:
        dataset = load_split(config.task, config.data, split, cache)
        return encode(dataset, config.task, tokenizer, config.data.max_length, cache, f"{content}-{split}")

    training = encoded("train")
    splits = evaluation_splits(config.task, config.data)
    if config.task.kind == "generation":
        splits.remove("test")  # decoded at the end; its loss is not looked at
    evaluation = {split: encoded(split) for split in splits}
    rows = sample_rows(len(training), config.train.limit_examples, "limit_examples", config.task.name)
    return tokenizer, RunData(training, rows, evaluation, pad_token(tokenizer))


def last_and_best(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List every metric's value in the last epoch and in that metric's own best epoch (raw scale)."""
    entries = []
    for split, values in epochs[-1]["metrics"].items():
        for name, last in values.items():
            higher = METRICS[name].higher_is_better
            best = (max if higher else min)(epoch["metrics"][split][name] for epoch in epochs)
            for selection, value in (("last", last), ("best", best)):
                entries.append(metric_entry(name, split, selection, value))
    return entries


def metric_entry(name: str, split: str, selection: str, value: float) -> dict[str, Any]:
    """Return one item of a record's `metrics`, raw scale."""
    higher = METRICS[name].higher_is_better
    return {"name": name, "split": split, "selection": selection, "value": value, "higher_is_better": higher}


def cost(progress: Progress, device: torch.device) -> dict[str, Any]:
    """Return what the run took; seconds add up over resumed attempts."""
    return {
        "seconds": progress.seconds,
        "train_seconds": progress.train_seconds,
        "steps": progress.step,
        "tokens": progress.tokens,
        "tokens_per_second": progress.tokens / progress.train_seconds,
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def prediction_rows(data: RunData, predictions: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield one row per evaluated example of the last epoch."""
    for split, answers in predictions.items():
        for index, (answer, label) in enumerate(zip(answers, data.evaluation[split].labels, strict=True)):
            yield {"split": split, "index": index, "prediction": answer.item(), "label": label.item()}


def outcome_of(error: BaseException, folder: Path) -> tuple[str, str]:
    """Return status and reason for an exception; an unexpected one leaves its traceback in the folder's error.log."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted", "stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else "stopped by SIGTERM"
    if isinstance(error, UserError):
        return "failed", str(error)
    if is_out_of_memory(error):
        return (
            "failed",
            "out of memory: lower train.batch_size, and raise train.accumulation to keep the product "
            "(while decoding: lower decode.batch_size)",
        )
    with suppress(OSError):  # on a full disk the record's one line is what can be hoped for
        (folder / ERROR_LOG).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    reason = " ".join(str(error).split())[:300]
    return "failed", f"{type(error).__name__}: {reason} (traceback in {folder / ERROR_LOG})"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception is the device's or the host's lack of memory."""
    host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return host or isinstance(error, (MemoryError, torch.OutOfMemoryError))
