"""The machine that a figure was measured on: what explains the figure, nothing that identifies the machine."""

import os
import platform
import time
from importlib.metadata import version
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "pyarrow", "pandas", "great_expectations")
MATRIX = 2048


def describe() -> dict[str, Any]:
    """Cores, memory, instruction set, libraries, and how busy it was (a minute's mean of runnable processes)."""
    import torch

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "libraries": {name: version(name) for name in LIBRARIES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def summary(facts: dict[str, Any]) -> str:
    """``describe()`` as a line of Markdown."""
    libraries = ", ".join(f"{name} {number}" for name, number in facts["libraries"].items())
    return (
        f"{facts['cores']} cores ({facts['processor']}), {facts['memory_gb']} GB, {facts['device']}; {libraries}. "
        f"Load average before the start: {facts['load_before']}."
    )


def matrix_rate(dtype: str, *, size: int = MATRIX, repeats: int = 5) -> float:
    """GFLOP/s of a product of two square matrices, the best of ``repeats``."""
    import torch

    left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: left @ right, repeats) / 1e9


def linear_seconds(weights: Any, rows: int, *, repeats: int = 5) -> float:
    """Seconds of one product of ``rows`` vectors with every matrix of ``weights``: no decoder of them is faster."""
    import torch

    inputs = {w.shape[1]: torch.randn(rows, w.shape[1]).to(w.dtype) for w in weights}
    with torch.inference_mode():
        return _best_seconds(lambda: [torch.nn.functional.linear(inputs[w.shape[1]], w) for w in weights], repeats)


def _best_seconds(function: Any, repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        start = time.monotonic()
        function()
        seconds.append(time.monotonic() - start)
    return min(seconds)
