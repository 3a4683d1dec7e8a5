"""Variants of the same work become CPU seconds, interleaved in one process, and paired ratios with their spread.

CPU seconds (`time.process_time`), not wall time: what else the machine does then counts least. The variants of a round
follow one another on the same input, so that a slow minute slows all of them; a ratio is taken within its round.
"""

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

Variants = Mapping[str, Callable[[Any], object]]
Rounds = dict[str, list[float]]


def interleave(variants: Variants, inputs: Sequence[Any]) -> Rounds:
    """CPU seconds of each variant on each input, one input a round; every second round goes backwards."""
    seconds: Rounds = {name: [] for name in variants}
    for number, given in enumerate(inputs):
        for name in list(variants)[:: 1 if number % 2 == 0 else -1]:
            began = time.process_time()
            variants[name](given)
            seconds[name].append(time.process_time() - began)
    return seconds


def ratios(rounds: Rounds, above: str, below: str) -> list[float]:
    """One ratio a round."""
    return [a / b for a, b in zip(rounds[above], rounds[below], strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, smallest and largest, and how many."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}], {len(values)} rounds"


def peak_memory(work: Callable[[], object]) -> int | None:
    """Bytes above what the process rests at; None where Linux does not say."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return None
    resting = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - resting)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def machine() -> str:
    """Processor, threads and versions, in one line."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text("utf-8").splitlines() if "model name" in line]
        processor = names[0] if names else processor
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "thoughtlens"))
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} used"
    return f"{processor}, {cores}; Python {platform.python_version()}, {packages}"
