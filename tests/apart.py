"""Processes of their own, to be killed or to work together, forked from one that has imported what they need.

Imports take some ten seconds of a processor, most of what such a process would do.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = [
    "accelerate",
    "peft",
    "thoughtlens.cli",
    "thoughtlens.models.loader",
    "thoughtlens.reports.run_files",
    "thoughtlens.runs.extraction",
    "thoughtlens.training.training_and_card",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "zarr",
]


def begin(target: Callable, *arguments: object, log: Path, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Call a function of a module in a process of its own, with these variables too; what it says goes to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_call, args=(target, arguments, log, dict(environment or {})))
    process.start()
    return process


def end(process: BaseProcess, log: Path) -> str:
    """Wait until a process has ended well; what it said."""
    process.join()
    said = log.read_text()
    assert process.exitcode == 0, said[-3000:]
    return said


def _call(target: Callable, arguments: tuple, log: Path, environment: dict[str, str]) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("w", buffering=1)  # open to the end: errors are told last
    target(*arguments)
