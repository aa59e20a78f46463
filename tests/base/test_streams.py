"""Random streams: equal everywhere, independent of each other."""

import hashlib
import subprocess
import sys

import numpy as np
import torch

from mtlora.base.streams import numpy_stream, stream_seed, torch_stream


def test_plans_and_tables_get_a_stream_without_torch() -> None:
    code = "import sys, mtlora.base.streams as s; s.numpy_stream(0, 'rte', 'order'); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == "False"


def test_seed_is_the_documented_hash() -> None:
    expected = int(hashlib.sha256(b"3\0rte\0A\0encoder.layer.0").hexdigest()[:16], 16) // 2
    assert stream_seed(3, "rte", "A", "encoder.layer.0") == expected
    assert 0 <= expected < 2**63


def test_every_part_of_the_name_counts() -> None:
    names = [(0, "head", ""), (1, "head", ""), (0, "A", ""), (0, "A", "x"), (0, "", "A"), (0, "Ax", ""), (10, "", "")]
    names = [(seed, task, *rest) for seed, *rest in names for task in ("rte", "cola", "A", "")]
    assert len({stream_seed(*name) for name in names}) == len(names)


def test_streams_do_not_shift_each_other() -> None:
    alone = torch.rand(5, generator=torch_stream(0, "rte", "A", "x"))
    torch.manual_seed(99)
    other = torch_stream(0, "rte", "C", "x")
    torch.rand(1000, generator=other)
    state = torch.get_rng_state()
    assert torch.equal(torch.rand(5, generator=torch_stream(0, "rte", "A", "x")), alone)
    assert torch.equal(torch.get_rng_state(), state), "a stream must leave the global generator alone"
    assert not torch.equal(torch.rand(5, generator=torch_stream(0, "rte", "C", "x")), alone)


def test_numpy_stream_repeats_and_differs_by_seed_and_task() -> None:
    first = numpy_stream(0, "rte", "order", "1").permutation(50)
    assert np.array_equal(numpy_stream(0, "rte", "order", "1").permutation(50), first)
    assert not np.array_equal(numpy_stream(0, "rte", "order", "2").permutation(50), first)
    assert not np.array_equal(numpy_stream(1, "rte", "order", "1").permutation(50), first)
    assert not np.array_equal(numpy_stream(0, "cola", "order", "1").permutation(50), first)


def test_same_numbers_in_another_process() -> None:
    code = (
        "from mtlora.base.streams import *; import torch; print(stream_seed(7, 'rte', 'head', 'w'), "
        "torch.rand(2, generator=torch_stream(7, 'rte', 'head', 'w')).tolist(), "
        "numpy_stream(7, 'rte', 'order').integers(1 << 40))"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": "123"}).stdout
    here = torch.rand(2, generator=torch_stream(7, "rte", "head", "w")).tolist()
    order = numpy_stream(7, "rte", "order").integers(1 << 40)
    assert told.strip() == f"{stream_seed(7, 'rte', 'head', 'w')} {here} {order}"
