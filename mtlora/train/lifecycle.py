"""The stages of a run's life around its training; `execution` calls them in this order.

1. `begin` writes a record with the status `running`.
2. `prepare` loads data and model and returns the `Run`, which `loop.train` then trains.
3. `complete` saves the adapter, scores the run, and enters the results into the record.
4. `end` writes the record with the final status, also for a run that failed or was interrupted.
"""

import logging
import shlex
import shutil
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel

from mtlora.base.errors import RunFailed, UserError
from mtlora.base.files import sync, write_jsonl
from mtlora.base.processes import is_first, world_size
from mtlora.base.progress import show_progress
from mtlora.data.sources import data_commit, low_resource
from mtlora.plan.cell import Cell
from mtlora.plan.status import lacking_metrics, reason_of, state_of
from mtlora.records.predictions import read_predictions, text_rows
from mtlora.records.provenance import now, provenance
from mtlora.records.record import PREDICTIONS, RECORD, RunRecord, record_status
from mtlora.records.schema import Metric, RunStatus
from mtlora.score.compute import require_text_packages
from mtlora.score.generated import score
from mtlora.train.compute import computed_with
from mtlora.train.data import load_data
from mtlora.train.decode.decoding import decode, prepare_contexts
from mtlora.train.model.build import build_model, count_parameters, load_parent, set_output_bias, weights_file
from mtlora.train.model.methods import effective
from mtlora.train.results import baselines, cost, last_and_best, of_last_epoch, prediction_rows, row_counts
from mtlora.train.run import Run
from mtlora.train.state import CHECKPOINT
from mtlora.train.tracking import NullTracker, make_tracker, untracked

log = logging.getLogger(__name__)

ERROR_LOG = "error.log"
# What PyTorch's allocator on the CPU, CUDA (a context, or memory for copies, when other processes fill the GPU), cuBLAS and cuDNN
# write in RuntimeErrors that are no torch.OutOfMemoryError.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def finished_record(cell: Cell) -> RunRecord | None:
    """Return the record of a finished run, with every metric that this machine can compute; None if the run is not finished."""
    if record_status(cell.folder) != "success":
        return None
    log.info("%s", "; ".join([f"{cell.run_id} is finished already: skipped", *untracked([cell])]))
    record = RunRecord.load(cell.folder / RECORD)
    if lacking_metrics(cell):  # for example because Java was installed only after the run
        contexts, texts = read_predictions(cell.folder / PREDICTIONS)
        record.metrics = of_last_epoch(score(cell.config.task, contexts, texts, experiment_id=cell.sha))
        record.save(cell.folder)
    return record


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
        transform=c.adapter.method,
        rank=c.adapter.r,
        seed=c.seed,
        targets=c.targets,
        profile=c.profile,
        protocol=c.protocol,
        config=asdict(c),
        overrides=list(cell.overrides),
        low_resource=low_resource(c.task, c.data),
        provenance={
            "data_content": identity["data_content"],
            "data_commit": data_commit(c.task, c.data),
            "model_content": identity["model_content"],
            "parent": identity["parent"],
            "versions": identity["versions"],
            "argv": sys.argv[1:],
            "started": now(),
        },
    )


def begin(cell: Cell) -> RunRecord:
    """Write the record of a run that starts now.

    Raises:
        UserError: the run that `init_from` names is not finished, or the folder cannot be written.
    """
    if cell.parent is not None and record_status(cell.parent.folder) != "success":
        command = shlex.join(cell.parent.overrides)
        state = state_of(cell.parent)
        raise UserError(
            f"init_from={cell.config.init_from}: its run is not finished in {cell.parent.folder} ({state}: "
            f"{reason_of(cell.parent, state)}): "
            f"run `python -m mtlora.train {command}` first, or set init_from=none"
        )
    record = new_record(cell)
    record.save(cell.folder)
    (cell.folder / ERROR_LOG).unlink(missing_ok=True)  # from an earlier attempt
    return record


def prepare(cell: Cell, record: RunRecord, accelerator: Accelerator, shared: bool) -> Run:
    """Load data and model, and add to the record the parameters, baselines, rows and provenance.

    Args:
        shared: share the frozen tensors with the other runs of this process (see `build.fresh_backbone`).

    Raises:
        UserError: something that the run needs is missing, even if only at its end, so that it fails before hours of training.
    """
    config = cell.config
    if config.decodes:
        require_text_packages()
    record.provenance |= provenance() | computed_with(accelerator.device)
    record.provenance["processes"] = world_size()
    if is_first():
        record.save(cell.folder)
    with accelerator.main_process_first():  # the first process fills the caches for the others
        tokenizer, data = load_data(cell)
    model = build_model(config, tokenizer, shared)
    if config.train.mean_bias:
        set_output_bias(model, float(data.train.labels[data.train_rows].mean()))
    if cell.parent is not None:
        load_parent(model, config, cell.parent.folder)
    record.parameters = count_parameters(model, config.model.head)
    record.effective = effective(config)
    record.baselines = baselines(config.task, data)
    contexts = prepare_contexts(config, model, tokenizer) if config.decodes else []
    record.provenance["rows"] = row_counts(data, len(contexts))
    tracker = make_tracker(cell, cell.folder) if is_first() else NullTracker()
    if shared:
        model.to(accelerator.device)
    return Run(cell, record, model, data, tokenizer, tracker, accelerator.device, contexts)


def complete(run: Run, accelerator: Accelerator) -> None:
    """Save the adapter of a trained run, decode and score its texts, and enter the results into the record."""
    folder, record = run.cell.folder, run.record
    if not run.predictions and run.config.task.kind != "generation":  # resumed after the last epoch
        run.evaluate(accelerator)
    if is_first():
        if isinstance(run.model, PeftModel):
            # PEFT would ask the hub whether the vocabulary was resized, which no run does.
            run.model.save_pretrained(str(folder), save_embedding_layers=False)
        else:
            run.model.save_pretrained(str(folder))
        weights = folder / weights_file(run.config)
        shutil.copymode(folder / RECORD, weights)  # safetensors lets only the owner read its files
        sync(weights)  # a record with the status success promises this file
        (folder / "README.md").unlink(missing_ok=True)  # PEFT writes a model card with empty fields
    if run.state.cohort is not None:
        record.provenance["cohort"] = run.state.cohort
    record.epochs, record.cost = run.state.epochs, cost(run.state, accelerator.device)
    if run.config.decodes:
        record.metrics = _decode_and_score(run)
    else:
        record.metrics = last_and_best(run.state.epochs)
        if is_first() and run.predictions:
            write_jsonl(folder / PREDICTIONS, prediction_rows(run.data, run.predictions))
    values = {f"{m['selection']}/{m['split']}/{m['name']}": m["value"] for m in record.metrics}
    run.tracker.log(values, run.state.step)


def _decode_and_score(run: Run) -> list[Metric]:
    """Decode the test split, write the texts, add `decode_seconds` to the cost, and return the metrics of the last epoch.

    If a run has several processes, each decodes a part, and only the first one scores.
    """
    config = run.config
    started = time.monotonic()
    with show_progress(f"{run.cell.run_id}, decoding", "texts") as on_progress:
        texts = decode(config, run.model, run.tokenizer, [context.facts for context in run.contexts], on_progress)
    run.record.cost["decode_seconds"] = time.monotonic() - started
    if not is_first():
        return []
    write_jsonl(run.cell.folder / PREDICTIONS, text_rows(run.contexts, texts))
    return of_last_epoch(score(config.task, run.contexts, texts, experiment_id=run.cell.sha))


def end(cell: Cell, record: RunRecord, error: BaseException | None = None) -> None:
    """Write the final record of a run: success, or the status and reason of an exception."""
    record.status = "success"
    if error is not None:
        record.status, record.error = status_and_reason(error, cell.folder)
        record.diverged = isinstance(error, RunFailed)
    record.provenance["ended"] = now()
    record.save(cell.folder)
    if error is None:
        (cell.folder / CHECKPOINT).unlink(missing_ok=True)


def status_and_reason(error: BaseException, folder: Path) -> tuple[RunStatus, str]:
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
    with suppress(OSError):  # a full disk must not hide the reason
        (folder / ERROR_LOG).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    reason = " ".join(str(error).split())[:300]
    return "failed", f"{type(error).__name__}: {reason} (traceback in {folder / ERROR_LOG})"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that the device or the host is out of memory."""
    text = str(error)
    library = isinstance(error, RuntimeError) and any(sign in text for sign in OUT_OF_MEMORY)
    return library or isinstance(error, (MemoryError, torch.OutOfMemoryError))
