"""How long the summary of a large run takes, on made-up attention that is drawn block by block.

    python -m benchmarks.analysis_speed [--layers 16] [--heads 32] [--problems 7473] [--thoughts 6] [--resamples 1000]

Prints seconds and peak memory; the time it takes to draw the attention is told apart.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import xarray as xr

from thoughtlens.analysis import analyze
from thoughtlens.schema import attention_dataset

BLOCK = 64


class Source:
    """Blocks of random attention, and the seconds spent on drawing them."""

    def __init__(self, shape: tuple[int, int, int], n_thoughts: int) -> None:
        self.shape, self.n_thoughts, self.seconds = shape, n_thoughts, 0.0

    def blocks(self) -> Iterator[xr.Dataset]:
        n_problems = self.shape[0]
        rng = np.random.default_rng(0)
        for start in range(0, n_problems, BLOCK):
            begun = time.perf_counter()
            block = self._block(start, min(BLOCK, n_problems - start), rng)
            self.seconds += time.perf_counter() - begun
            yield block

    def _block(self, start: int, n: int, rng: np.random.Generator) -> xr.Dataset:
        n_queries, n_keys = self.n_thoughts + 3, self.n_thoughts + 5
        values = rng.random((n, *self.shape[1:], n_queries, n_keys), dtype=np.float32)
        values *= np.tri(n_queries, n_keys, 2, dtype=np.float32)
        values /= values.sum(-1, keepdims=True)
        return attention_dataset(
            values,
            problem_ids=[f"p{start + i}" for i in range(n)],
            correct=np.ones(n),
            n_question_tokens=rng.integers(20, 90, n),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("layers", 16), ("heads", 32), ("problems", 7473), ("thoughts", 6), ("resamples", 1000)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    source = Source((options.problems, options.layers, options.heads), options.thoughts)
    begun, cpu = time.perf_counter(), time.process_time()
    analyze(source.blocks(), correct=np.ones(options.problems, dtype=bool), n_resamples=options.resamples)
    seconds, busy = time.perf_counter() - begun, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{options.layers * options.heads} heads, {options.problems} problems, {options.resamples} resamples:")
    print(f"  {seconds - source.seconds:.1f} s (processor {busy - source.seconds:.1f} s) to analyse,", end=" ")
    print(f"{source.seconds:.1f} s to draw; peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
