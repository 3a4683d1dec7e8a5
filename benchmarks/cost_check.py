"""The cost model beside what was measured: seconds of our pass on this processor over what `cost` foresees.

    python -m benchmarks.cost_check                  GPT-2 124M shape, batches of 4 to 64, 3 rounds each
    python -m benchmarks.cost_check --model llama --batch-size 16

The processor's peaks are measured in the same process: the rate of products of 512 rows, and the bytes a second at
which one row passes through all linear layers, which reads every weight once. All of both is taken to be reached, so
that the model gives the least time thinkable, and the ratio says how much more it took.
"""

import argparse
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from benchmarks.cost import Device, Study, batch_seconds, shape_of
from benchmarks.measuring import Setting, measure
from benchmarks.shapes import linear_layers, reasoner_of
from benchmarks.timing import machine, spread

OTHERS = ("2025", "transformers", "uncaptured", "products", "question")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "llama"], default="gpt2")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    reasoner = reasoner_of(asked.model, asked.layers)
    shape, bandwidth = shape_of(reasoner.lm.config), read_rate(reasoner.lm)
    for batch_size in asked.batch_size:
        found = measure(reasoner, Setting(batch_size, batch_size, rounds=asked.rounds, skip=OTHERS))
        peak = median(found.rates("rows512"))
        processor = Device(peak, bandwidth, number=4, of_flops=1.0, of_bandwidth=1.0, start=0.0)
        # The benchmark's questions of a round have one length, to within a token or so; it closes with no marker.
        study = replace(Study(batch_size=batch_size), n_answer=0, n_closing=0)
        foreseen = [batch_seconds(shape, study, processor, batch_size, round(tokens)) for tokens in found.tokens]
        ratios = [taken / least for taken, least in zip(found.seconds["ours"], foreseen, strict=True)]
        print(
            f"batches of {batch_size}: measured / foreseen {spread(ratios, 2)}; "
            f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s",
            flush=True,
        )


@torch.no_grad()
def read_rate(lm: Any, repeats: int = 5) -> float:
    """Bytes of weights a CPU second when one row passes through every linear layer."""
    layers = linear_layers(lm)
    rows = {inner: torch.ones(1, inner) for inner in {shape[0] for _, shape in layers}}
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        for layer, (inner, _) in layers:
            layer(rows[inner])
        taken.append(time.process_time() - began)
    return 4 * sum(inner * columns for _, (inner, columns) in layers) / median(taken)


if __name__ == "__main__":
    main()
