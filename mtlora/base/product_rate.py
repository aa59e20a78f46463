"""The rate of matrix products on this machine: `python -m mtlora.base.product_rate auto auto` prints it, and the device.

The measurement imports torch, which takes seconds, so `mtlora.plan` measures in a child process.
"""

import subprocess
import sys
import time

SIZES = {"cpu": 1024, "cuda": 8192}
PRODUCTS = 5  # at least
SECONDS = {"cpu": 0.0, "cuda": 0.5}  # at least, because the clock of an idle GPU rises only under load


def measured_in_child(device: str, cpu_gemm: str) -> tuple[float, str]:
    """Return the result of `measure` without importing torch into this process."""
    command = [sys.executable, "-m", "mtlora.base.product_rate", device, cpu_gemm]
    rate, used = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(rate), used


def measure(device: str, cpu_gemm: str) -> tuple[float, str]:
    """Return the operations per second of large products, and the device that computed them: cpu or cuda.

    A GPU multiplies in bf16, a CPU in fp32 with the library that a run would choose. On a CPU it is the rate of one
    thread, from its processor time, times the number of cores, so that other programs do not change the result. Library and
    thread stay set.

    Args:
        device: the value of `compute.device`.
        cpu_gemm: the value of `compute.cpu_gemm`.
    """
    import torch

    from mtlora.base.cpu import available_cores
    from mtlora.base.onednn import use_fastest_products

    used = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    use_fastest_products(cpu_gemm)
    torch.set_num_threads(1)
    clock, cores = (time.perf_counter, 1) if used == "cuda" else (time.process_time, available_cores())
    n, kind = SIZES[used], torch.bfloat16 if used == "cuda" else torch.float32
    # Random, because a GPU uses less power for equal numbers, and then multiplies faster than in training.
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(used, kind)
    seconds, began = list[float](), time.monotonic()
    while len(seconds) < PRODUCTS or time.monotonic() - began < SECONDS[used]:
        started = clock()
        float((a @ a)[0, 0])
        seconds.append(clock() - started)
    return 2.0 * n**3 * cores / min(seconds), used


if __name__ == "__main__":
    print(*measure(*sys.argv[1:]))
