"""FSDP and FSDP2 in two processes: the losses are those of one process, for MTLoRA as for PEFT's LoRA."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import sharded_training
from helpers.sharded_training import CONFIGS, WAYS

Losses = dict[str, dict[str, list[float]]]

pytestmark = pytest.mark.xdist_group("adapter_sharding")  # one process makes the costly fixture, once


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[Losses]:
    """The losses of each process."""
    store = tmp_path_factory.mktemp("gloo") / "store"
    command = [sys.executable, "-W", "ignore", str(Path(sharded_training.__file__))]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, str(rank), str(store)], stdout=subprocess.PIPE, env=environment, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "alone"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_sharded_model_has_the_losses_of_one_process(losses: list[Losses], name: str, way: str) -> None:
    for process in losses:
        assert process[name][way] == pytest.approx(process[name]["alone"], rel=1e-6)
    first, *_, last = losses[0][name]["alone"]
    assert first > last
