"""Every launcher finishes a sweep in which runs fail, and two sweeps at once share the work.

`make test-slurm` needs a cluster (tests/clusters/slurm.sh), `make test-ray` the extra `ray`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.glue_files import write, write_official
from helpers.tiny_runs import cell_in, holder, overrides

from mtlora.base.paths import REPOSITORY
from mtlora.plan.cell import Cell, compose_cell
from mtlora.records.record import RunRecord, record_status

SLURM = ("hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4")
SHORT = ("train.epochs=1",)
EPOCHS = ("train.epochs=15",)  # the second of two sweeps needs the time to start


def command(*arguments: str) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when_it_trains(cell: Cell, killed: list[int]) -> None:
    """Kill what trains a cell until its record says so; a cohort goes on in halves until the cell is alone."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (killed and record_status(cell.folder) == "failed"):
        with suppress(OSError, ValueError):  # the holder may end, or its lock change hands, while we look
            if (cell.folder / "metrics.jsonl").exists() and (pid := holder(cell.lock)) and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        time.sleep(0.05)


@pytest.mark.parametrize(
    "launcher",
    [
        ("cohort",),
        ("local",),
        ("joblib", "hydra.launcher.n_jobs=2"),
        pytest.param(("slurm", *SLURM), marks=pytest.mark.slurm),
        pytest.param(("ray", "hydra.launcher.ray.init.num_cpus=2"), marks=pytest.mark.ray),
    ],
    ids=lambda launcher: launcher[0],
)
def test_three_of_nine_runs_fail_and_six_are_made(launcher: tuple[str, ...], tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    write(root / "SST-2/train.tsv", "sentence\tlabel\nfine\t1\nbad\t7\n")
    raising = overrides(tmp_path, *SHORT, "task=sst2", "data.source=local", f"data.root={root}")
    # In a cohort with three good runs: each kill costs a child, and a larger cohort would need more.
    killed = overrides(tmp_path, "train.epochs=100000", "seed=100", "train.batch_size=8")
    nan = overrides(tmp_path, "train.learning_rate=1e30", "seed=101")
    good = [overrides(tmp_path, *SHORT, f"seed={seed}") for seed in range(3)]
    good += [overrides(tmp_path, *SHORT, f"seed={seed}", "train.batch_size=8") for seed in range(3)]
    jobs = [*good[:2], raising, good[2], killed, good[3], nan, *good[4:]]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    pids: list[int] = []
    threading.Thread(target=kill_when_it_trains, args=(compose_cell(killed), pids), daemon=True).start()

    name, *more = launcher
    sweep = command(
        "mtlora.train",
        "-m",
        f"hydra.sweeper.file='{tmp_path}/jobs.json'",
        f"hydra/launcher={name}",
        f"results={tmp_path}",
        *more,
    )
    output, _ = sweep.communicate(timeout=590)
    assert (len(pids) > 1) == (name == "cohort"), output
    assert sweep.returncode == 1, output
    assert "Traceback" not in output
    *_, first, second, third, error = output.splitlines()
    assert re.match(r"not done: .* task=sst2 .*: .*SST-2/train.tsv:3: label '7'", first), output
    assert re.match(r"not done: .*seed=100.* failed: its process was killed by SIGKILL", second), output
    assert re.match(r"not done: .*seed=101.* failed: the training loss is (nan|inf)", third), output
    assert error.startswith("error: 3 of 9 runs failed (listed above)"), output
    for arguments in jobs:
        record = RunRecord.load(compose_cell(arguments).folder / "record.json")
        assert (record.status == "success") == (arguments in good), arguments
    assert len(list((tmp_path / "runs").rglob("record.json"))) == 9


def trained(log: str, run_id: str) -> int:
    """Return how often a sweep trained a run: it also reports the runs that it skips."""
    return len(re.findall(rf"^{run_id}: .* in ", log, re.M)) - len(
        re.findall(rf"^{run_id} is finished already", log, re.M)
    )


def test_two_sweeps_at_once_train_each_cell_once(tmp_path: Path) -> None:
    arguments = ["glue", *overrides(tmp_path, *EPOCHS, "task=cola,rte", "transform=lora,shim", "seed=0,1,2")]
    arguments.remove("compute.threads=1")
    sweeps = [command("mtlora.reproduce", *arguments, "--launcher", "joblib", "--jobs", "2")]
    while not list(
        tmp_path.rglob("record.json")
    ):  # Hydra composes every cell first; the other sweep would be done by then
        assert sweeps[0].poll() is None, sweeps[0].communicate()
        time.sleep(0.05)
    sweeps.append(command("mtlora.reproduce", *arguments, "--launcher", "local", "--jobs", "1"))
    outputs = [sweep.communicate(timeout=300)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    logs = [path.read_text() for path in (tmp_path / "sweeps").glob("*.log")]
    assert len(logs) >= 2
    cells = [
        cell_in(tmp_path, *EPOCHS, f"task={task}", f"transform={transform}", f"seed={seed}")
        for task in ("cola", "rte")
        for transform in ("lora", "shim")
        for seed in range(3)
    ]
    shares = [[trained(log, cell.run_id) for log in logs] for cell in cells]
    assert [sum(share) for share in shares] == [1] * 12
    assert len({share.index(1) for share in shares}) == 2, "both take part"
