"""How fast attention is recorded: the 2025 method, plain transformers, our pass without and with the recorder.

    python -m benchmarks.extraction                        GPT-2 124M shape, batches of 16, 5 rounds, about 5 minutes
    python -m benchmarks.extraction --layers 2 --rounds 3  a quick look, under a minute
    python -m benchmarks.extraction --model llama --rounds 2 --skip transformers

A round is one batch out of the plan that extraction makes for GSM8K's 7,473 training questions (sorted by length, so
that a batch holds problems of about one length); the rounds' batches lie at even quantiles of length. Weights are
random. Times are CPU seconds, the methods interleaved in one process; see `timing` and `methods`.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.lengths import gsm8k_lengths
from benchmarks.methods import Products, check_agreement, methods
from benchmarks.shapes import linear_shapes, questions_of, reasoner_of
from benchmarks.timing import gemm_rate, interleave, machine, peak_memory, ratios, spread

RATIOS = (("2025", "ours"), ("transformers", "ours"), ("ours", "uncaptured"), ("products", "ours"))


def main() -> None:
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    print(machine())
    reasoner = reasoner_of(asked.model, asked.layers)
    tables = [
        measure(reasoner, asked, batch_size=batch_size, n_tokens=n_tokens, n_thoughts=n_thoughts)
        for batch_size in asked.batch_size
        for n_tokens in asked.tokens
        for n_thoughts in asked.thoughts
    ]
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=1), "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "llama"], default="gpt2")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16])
    parser.add_argument("--tokens", type=int, nargs="+", default=[0], help="tokens of every question; 0: as in GSM8K")
    parser.add_argument("--thoughts", type=int, nargs="+", default=[6])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, help="problems a round; one batch if not given")
    parser.add_argument("--skip", nargs="+", default=[], help="methods to leave out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    return parser.parse_args()


def measure(reasoner: Any, asked: argparse.Namespace, *, batch_size: int, n_tokens: int, n_thoughts: int) -> Any:
    """Rounds of every method at one setting, printed and returned."""
    n_problems = asked.n or batch_size
    chosen = {
        name: method
        for name, method in methods(reasoner, batch_size=batch_size, n_thoughts=n_thoughts).items()
        if name not in asked.skip
    }
    inputs = [
        questions_of(lengths, reasoner.markers.vocabulary)
        for lengths in round_lengths(asked.rounds, n_problems, n_tokens)
    ]
    first = inputs[0][: min(4, n_problems)]
    worst = check_agreement({name: method(first) for name, method in chosen.items()}, n_thoughts)
    rounds = interleave(chosen, inputs)
    peaks = {name: peak_memory(lambda method=method: method(inputs[-1])) for name, method in chosen.items()}
    return report(reasoner, batch_size, n_thoughts, inputs, rounds, peaks, worst)


def round_lengths(n_rounds: int, n_problems: int, n_tokens: int) -> list[list[int]]:
    """Tokens of the questions of each round: runs of the sorted lengths at even quantiles, or all `n_tokens`."""
    if n_tokens:
        return [[n_tokens] * n_problems] * n_rounds
    lengths = sorted(gsm8k_lengths())
    starts = [int((k + 0.5) / n_rounds * len(lengths)) - n_problems // 2 for k in range(n_rounds)]
    return [lengths[start : start + n_problems] for start in starts]


def report(
    reasoner: Any,
    batch_size: int,
    n_thoughts: int,
    inputs: list[list[str]],
    rounds: dict[str, list[float]],
    peaks: dict[str, int | None],
    worst: float,
) -> Any:
    """Print one setting's table; return its figures."""
    n_problems, products = len(inputs[0]), Products(reasoner, n_thoughts)
    tokens = [round(mean(len(question.split()) for question in given), 1) for given in inputs]
    operations = [products.operations(given) for given in inputs]
    large = gemm_rate([(512, *shape) for shape in sorted(set(linear_shapes(reasoner.lm)))])
    config = reasoner.lm.config
    print(
        f"\n{config.model_type}, {config.num_hidden_layers} layers; batch {batch_size}, {n_problems} problems a round, "
        f"T = {n_thoughts}; tokens a question by round: {tokens}; methods agree to {worst:.1e}"
    )
    for name, seconds in rounds.items():
        each = [1000 * taken / n_problems for taken in seconds]
        rate = [count / taken / 1e9 for count, taken in zip(operations, seconds, strict=True)]
        peak = "" if peaks[name] is None else f"; peak {peaks[name] / 2**20:,.0f} MiB above rest"
        print(f"  {name:12}  {spread(each, 0)} ms a problem; {median(rate):.1f} GFLOP/s of need{peak}")
    print(f"  products of 512 rows alone: {large / 1e9:.1f} GFLOP/s")
    found = {}
    for above, below in RATIOS:
        if above in rounds and below in rounds:
            total = sum(rounds[above]) / sum(rounds[below])
            found[f"{above} / {below}"] = ratios(rounds, above, below)
            print(f"  {above} / {below}: {spread(found[f'{above} / {below}'])}; of the sums {total:.3f}")
    share = [count / taken / large for count, taken in zip(operations, rounds["ours"], strict=True)]
    print(f"  ours, share of the rate of 512 rows: {spread(share)}")
    sys.stdout.flush()
    return {
        "model": config.model_type,
        "n_layers": config.num_hidden_layers,
        "batch_size": batch_size,
        "n_problems": n_problems,
        "n_thoughts": n_thoughts,
        "tokens": tokens,
        "seconds": rounds,
        "ratios": found,
        "peak_bytes": peaks,
        "rate_512": large,
        "agreement": worst,
    }


if __name__ == "__main__":
    main()
