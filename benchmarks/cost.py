"""A model, a problem set and a device become operations, bytes and seconds: what a study would cost before it is run.

    python -m benchmarks.cost                     385,000 problems of GSM8K's lengths, 8B shape, on an A100 and an H100
    python -m benchmarks.cost --model gpt2 --n 7473
    python -m benchmarks.cost --model FOLDER      the shape in a folder's config.json; no weights are needed

1. A batch reads its questions in one pass, then one position a problem: `bot`, T thoughts, `eot`, the answer's tokens.
2. A pass takes the longest of three times: its operations at a share of the peak rate, the weights and the cache read
   once at a share of the bandwidth, and what it takes to start the kernels of each layer.
3. Batches are those that extraction would plan, shard by shard, padding counted.

Nothing is known of loading, of writing, or of what a device's libraries lose on small products. Peak rates are the
maker's for dense bfloat16 (NVIDIA data sheets: A100 80GB SXM, H100 SXM); the shares and the time to start kernels are
assumptions that no GPU has confirmed. `cost_check` holds the model against this machine's processor.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.lengths import gsm8k_lengths
from benchmarks.shapes import CONFIGS, config_of, linear_layers
from thoughtlens.runs.batches import plan
from thoughtlens.runs.storage_layout import problems_for


@dataclass(frozen=True)
class Device:
    """Where a study would run.

    Attributes:
        flops: operations a second at most.
        bandwidth: bytes a second at most.
        number: bytes of a number.
        of_flops: the share of `flops` that is reached.
        of_bandwidth: the share of `bandwidth` that is reached.
        start: seconds to start the kernels of one layer.
    """

    flops: float
    bandwidth: float
    number: int = 2
    of_flops: float = 0.4
    of_bandwidth: float = 0.6
    start: float = 3e-4


GPUS: Final = {"A100": Device(312e12, 2.039e12), "H100": Device(989e12, 3.35e12)}


@dataclass(frozen=True)
class Shape:
    """What of a model decides its cost.

    Attributes:
        n_layers: layers.
        n_heads: query heads of a layer.
        n_kv_heads: key-value heads of a layer.
        channels: of a head.
        hidden: width.
        vocabulary: tokens.
        linear: weights of the decoder's linear layers, which every position meets.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    channels: int
    hidden: int
    vocabulary: int
    linear: int

    def reading(self, n_rows: int, n_keys: int) -> int:
        """Operations of positions that attend to so many keys each, a multiplication and an addition being two.

        Linear layers: 2 · weights.  Attention: 4 · heads · channels · keys a layer; what a mask hides is computed too.
        """
        return n_rows * (2 * self.linear + 4 * self.n_layers * self.n_heads * self.channels * n_keys)

    def feeding_back(self) -> int:
        """Operations of CODI's projection, two square layers."""
        return 4 * self.hidden**2

    def choosing(self) -> int:
        """Operations of the output layer."""
        return 2 * self.hidden * self.vocabulary

    def cache(self, n_positions: int) -> int:
        """Numbers in the keys and values of so many positions."""
        return 2 * self.n_layers * self.n_kv_heads * self.channels * n_positions


def shape_of(config: Any) -> Shape:
    """The shape of any decoder that transformers knows; its layers are made without memory."""
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    heads = config.num_attention_heads
    return Shape(
        config.num_hidden_layers,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.hidden_size,
        config.vocab_size,
        sum(inner * columns for _, (inner, columns) in linear_layers(lm)),
    )


@dataclass(frozen=True)
class Study:
    """What is done with each problem.

    Attributes:
        n_thoughts: T.
        n_answer: tokens said before the end token; no answer at all if 0.
        n_closing: markers after the thoughts.
        batch_size: problems a pass at most.
    """

    n_thoughts: int = 6
    n_answer: int = 8
    n_closing: int = 1
    batch_size: int = 32

    @property
    def n_steps(self) -> int:
        """Passes of one position a problem: `bot`, thoughts, closing, answer."""
        return 1 + self.n_thoughts + self.n_closing + self.n_answer


def operations(shape: Shape, study: Study, n_tokens: int) -> int:
    """Floating-point operations of one problem in a batch whose questions have, padded, so many tokens."""
    steps = sum(shape.reading(1, n_tokens + 1 + step) for step in range(study.n_steps))
    choices = (study.n_answer + 1) * shape.choosing() if study.n_answer else 0
    return shape.reading(n_tokens, n_tokens) + steps + study.n_thoughts * shape.feeding_back() + choices


def batch_seconds(shape: Shape, study: Study, device: Device, n_problems: int, n_tokens: int) -> float:
    """Seconds of one batch."""

    def one_pass(n_operations: int, n_numbers: int) -> float:
        computing = n_operations / (device.flops * device.of_flops)
        moving = n_numbers * device.number / (device.bandwidth * device.of_bandwidth)
        return max(computing, moving, shape.n_layers * device.start)

    seconds = one_pass(n_problems * shape.reading(n_tokens, n_tokens), shape.linear)
    for step in range(study.n_steps):
        n_keys = n_tokens + 1 + step
        seconds += one_pass(n_problems * shape.reading(1, n_keys), shape.linear + n_problems * shape.cache(n_keys))
    beside = n_problems * (study.n_thoughts * shape.feeding_back() + study.n_answer * shape.choosing())
    return seconds + beside / (device.flops * device.of_flops)


@dataclass(frozen=True)
class Cost:
    """What a study costs.

    Attributes:
        operations: floating-point operations.
        seconds: on one device.
        raw: bytes of all attention in float16, before it is compressed.
        memory: bytes of weights and of the cache of the largest batch; activations come on top.
    """

    operations: int
    seconds: float
    raw: int
    memory: int


def planned(shape: Shape, study: Study, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Problems and padded tokens of each batch of an extraction."""
    size = problems_for(shape.n_layers, shape.n_heads, study.n_thoughts, "float16", 0)
    shards = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return [(len(batch), max(shard[i] for i in batch)) for shard in shards for batch in plan(shard, study.batch_size)]


def cost(shape: Shape, study: Study, device: Device, lengths: Sequence[int]) -> Cost:
    """The cost of a study of problems with questions of so many tokens."""
    batches = planned(shape, study, lengths)
    parameters = shape.linear + 2 * shape.vocabulary * shape.hidden
    largest = max(n * shape.cache(width + study.n_steps) for n, width in batches)
    return Cost(
        sum(n * operations(shape, study, width) for n, width in batches),
        sum(batch_seconds(shape, study, device, n, width) for n, width in batches),
        2 * len(lengths) * shape.n_layers * shape.n_heads * (study.n_thoughts + 3) * (study.n_thoughts + 5),
        device.number * (parameters + largest),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-8b", help=f"{', '.join(CONFIGS)}, or a folder with config.json")
    parser.add_argument("--n", type=int, default=385_000, help="problems, of GSM8K's lengths")
    parser.add_argument("--thoughts", type=int, default=6)
    parser.add_argument("--answer", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 128])
    asked = parser.parse_args()
    shape = shape_of(config_of(asked.model) if asked.model in CONFIGS else AutoConfig.from_pretrained(asked.model))
    drawn = gsm8k_lengths()
    lengths = [drawn[place % len(drawn)] for place in range(asked.n)]
    print(f"{asked.model}: {shape}; {asked.n:,} problems, {sum(lengths) / len(lengths):.1f} tokens a question")
    for batch_size in asked.batch_size:
        study = Study(asked.thoughts, asked.answer, batch_size=batch_size)
        for name, device in GPUS.items():
            found = cost(shape, study, device, lengths)
            print(
                f"  {name}, batches of {batch_size}: {found.operations:.2e} operations, {found.seconds / 3600:.2f} "
                f"hours, {found.memory / 1e9:.0f} GB beside activations; attention {found.raw / 1e9:.1f} GB at most"
            )


if __name__ == "__main__":
    main()
