"""How fast attention is recorded: the 2025 method, plain transformers, our pass without and with the recorder.

    python -m benchmarks.extraction                        GPT-2 124M shape, batches of 16, 7 rounds, some minutes
    python -m benchmarks.extraction --layers 2 --rounds 3  a quick look, under a minute
    python -m benchmarks.extraction --model llama --rounds 5

Weights are random. Times are CPU seconds, the methods interleaved in one process; see `measuring`, `methods` and
`timing`. Sweeps over batch size, length and thoughts are in `sweeps`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import Measured, Setting, measure
from benchmarks.shapes import reasoner_of
from benchmarks.timing import machine, spread

RATIOS = (
    ("2025", "ours"),
    ("transformers", "ours"),
    ("ours", "uncaptured"),
    ("products", "ours"),
)


def main() -> None:
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    print(machine(), flush=True)
    reasoner = reasoner_of(asked.model, asked.layers)
    n_problems = asked.n or asked.batch_size
    setting = Setting(asked.batch_size, n_problems, asked.thoughts, asked.tokens, asked.rounds, tuple(asked.skip))
    found = measure(reasoner, setting)
    report(reasoner.lm.config, found)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), **asdict(found)}, indent=1), "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "llama"], default="gpt2")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=0, help="tokens of every question; 0: as in GSM8K")
    parser.add_argument("--thoughts", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--n", type=int, help="problems a round; one batch if not given")
    parser.add_argument("--skip", nargs="+", default=[], help="methods to leave out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    return parser.parse_args()


def report(config: Any, found: Measured) -> None:
    """Print one setting's table."""
    setting = found.setting
    print(
        f"\n{config.model_type}, {config.num_hidden_layers} layers; batch {setting.batch_size}, {setting.n_problems} "
        f"problems a round, T = {setting.n_thoughts}; tokens a question by round: {found.tokens}; "
        f"methods agree to {found.worst:.1e}"
    )
    for name, seconds in found.seconds.items():
        each = [1000 * taken / setting.n_problems for taken in seconds]
        peak = found.peaks[name]
        memory = "" if peak is None else f"; peak {peak / 2**20:,.0f} MiB above rest"
        print(f"  {name:12}  {spread(each, 0)} ms a problem; {median(found.rates(name)) / 1e9:.1f} GFLOP/s{memory}")
    for above, below in RATIOS:
        if {above, below} <= set(found.seconds):
            of_sums = sum(found.seconds[above]) / sum(found.seconds[below])
            print(f"  {above} / {below}: {spread(found.ratio(above, below))}; of the sums {of_sums:.3f}")
    for name in ("ours", "products", "question"):
        if {name, "rows512"} <= set(found.seconds):
            print(f"  {name}, share of the rate of products of 512 rows: {spread(found.share(name))}")


if __name__ == "__main__":
    main()
