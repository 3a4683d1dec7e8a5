"""How the speed of recording depends on batch size, question length, number of thoughts and problems; memory with it.

    python -m benchmarks.sweeps                             GPT-2 124M shape, 3 rounds a setting, about ten minutes
    python -m benchmarks.sweeps --only thoughts --rounds 5

One thing is varied at a time, from batches of 16 problems of GSM8K's lengths and six thoughts. Few rounds: the smallest
and the largest are printed, and differences within them mean nothing. Memory is what one batch takes above the resting
process; that of whole runs by number of problems is in `memory`.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import Measured, Setting, measure
from benchmarks.shapes import reasoner_of
from benchmarks.timing import machine, spread

VARIED: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("batch_size", (1, 4, 8, 16, 32, 64)),
    "tokens": ("n_tokens", (16, 32, 64, 128, 256)),
    "thoughts": ("n_thoughts", (1, 3, 6, 12, 24)),
    "problems": ("n_problems", (16, 64)),
}
SHOWN = (("ours", "uncaptured"), ("2025", "ours"), ("transformers", "ours"), ("products", "ours"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "llama"], default="gpt2")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--only", choices=list(VARIED), nargs="+", default=list(VARIED))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="+", default=["question"], help="methods to leave out")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    reasoner, tables = reasoner_of(asked.model, asked.layers), []
    for varied in asked.only:
        print(f"\n{varied}", flush=True)
        for setting in settings(varied, Setting(rounds=asked.rounds, skip=tuple(asked.skip))):
            found = measure(reasoner, setting)
            tables.append({"varied": varied, **asdict(found)})
            print(f"  {getattr(setting, VARIED[varied][0]):4}  {line(found)}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=1), "utf-8")


def settings(varied: str, usual: Setting) -> Iterator[Setting]:
    """The usual setting with one thing changed; a round has one batch, or 16 problems where batches are smaller."""
    name, values = VARIED[varied]
    for value in values:
        setting: Any = replace(usual, **{name: value})
        yield replace(setting, n_problems=max(setting.n_problems, setting.batch_size))


def line(found: Measured) -> str:
    """Milliseconds a problem, peak memory and ratios."""
    seconds, peak = found.seconds["ours"], found.peaks["ours"]
    said = [f"ours {spread([1000 * each / found.setting.n_problems for each in seconds], 1)} ms a problem"]
    said += [] if peak is None else [f"peak {peak / 2**20:,.0f} MiB"]
    for above, below in SHOWN:
        if {above, below} <= set(found.seconds):
            said.append(f"{above} / {below} {_short(found.ratio(above, below))}")
    said.append(f"of 512 rows {_short(found.share('ours'))}")
    return "; ".join(said)


def _short(values: list[float]) -> str:
    return f"{median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


if __name__ == "__main__":
    main()
