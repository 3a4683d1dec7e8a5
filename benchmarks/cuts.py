"""What sharing a question's pass among many cuts saves, in CPU seconds, variants interleaved in one process.

    python -m benchmarks.cuts              both tables
    python -m benchmarks.cuts plan         tiny-gpt2: 200 cuts × 200 problems, answers told and said
    python -m benchmarks.cuts sweep        GPT-2 124M shape: 48 heads cut one at a time, batches of 16

*shared* reads the questions of a batch once and lets copies of it think at once, each under its own cut.  *read again*
is the same, but every copy reads its questions itself.  *apart* makes one cut after the other, in our own batches.
All give the same numbers; the largest difference is printed.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.measuring import Setting, round_lengths
from benchmarks.timing import interleave, machine, ratios, spread
from thoughtlens.cuts import Zero, ablate_head, ablate_thought, knock_out
from thoughtlens.cuts.interventions import Variants
from thoughtlens.cuts.passes import Cutting, batch_of, copies_at_once
from thoughtlens.cuts.replacement_values import Parts
from thoughtlens.models import Codi, LatentReasoner, load
from thoughtlens.problems import sample
from thoughtlens.reasoning import BatchPass, tell, think
from thoughtlens.reasoning.loop import prompts_without
from thoughtlens.taps import Taps

N_THOUGHTS = 6
SPOKEN = (list(range(10, 15)), [20, 21, 0])
"""A told answer where the weights are random: five tokens of prefix, two of value, the end."""


def plan_of(n_layers: int, n_heads: int, n_cuts: int) -> list[Parts]:
    """Heads at every position, thoughts, edges in every layer: the first n of them, of every kind."""
    heads = list(product(range(n_layers), range(n_heads)))
    scopes = [None, *([name] for name in ("bot", "z1", "z2", "z3", "z4", "z5", "z6", "eot"))]
    edges = [(f"z{q}", f"z{k}") for q in range(2, 7) for k in range(1, q)]
    cuts = [ablate_thought(f"z{k}", edit=Zero()) for k in range(1, 7)]
    cuts += [knock_out(*edge) for edge in edges]
    cuts += [ablate_head(head, queries=scope, edit=Zero()) for scope in scopes for head in heads]
    cuts += [knock_out(*edge, layers=[layer]) for layer in range(n_layers) for edge in edges]
    return [cut.parts for cut in cuts[:n_cuts]]


class ReadAgain(Cutting):
    """As `Cutting`, but every copy of the batch reads its questions itself."""

    def _cut(self, made: Sequence[Parts], count: int, watching: Taps) -> tuple[BatchPass, Taps]:
        edits = Taps([Variants(made, len(self._batch.problems))])
        reading = BatchPass(self._reasoner, Taps([*edits, *watching]), count)
        reading.question(prompts_without(self._reasoner, self._batch.prompts) * len(made))
        return reading, edits


assert "_cut" in vars(Cutting), "what `ReadAgain` does in another way is a method of `Cutting`"


def run_plan(reasoner: Codi, batches: Sequence[Any], cuts: Sequence[Parts], kind: type[Cutting]) -> list[float]:
    """Log-probabilities of the gold answers, cut by cut."""
    found = []
    for problems in batches:
        batch = batch_of(reasoner, problems, N_THOUGHTS)
        cutting = kind(reasoner, batch, N_THOUGHTS)
        n_copies = copies_at_once(reasoner, list(map(len, batch.prompts)), N_THOUGHTS)
        for start in range(0, len(cuts), n_copies):
            outcomes = cutting.outcomes(cuts[start : start + n_copies])
            found += outcomes.gold_logprob.ravel().tolist()
    return found


def plan(n_cuts: int, n_problems: int, rounds: int, batch_size: int) -> None:
    reasoner = load("tiny-gpt2", dtype="float32")
    problems = sorted(sample("arithmetic", n=n_problems, seed=0), key=lambda p: -len(reasoner.prompt(p.question)))
    batches = [problems[start : start + batch_size] for start in range(0, n_problems, batch_size)]
    cuts = plan_of(4, 4, n_cuts)
    shared, again = (run_plan(reasoner, batches[:1], cuts, kind) for kind in (Cutting, ReadAgain))
    apart = max(abs(a - b) for a, b in zip(shared, again, strict=True))
    size = f"{len(cuts)} cuts × {n_problems} problems in batches of {batch_size}"
    print(f"tiny-gpt2, {size}; largest difference {apart:.1e}")
    variants = {
        "shared": lambda _: run_plan(reasoner, batches, cuts, Cutting),
        "read again": lambda _: run_plan(reasoner, batches, cuts, ReadAgain),
    }
    show(variants, range(rounds), "shared", ["read again"], inverse=True)


def sweep(n_cuts: int, rounds: int, batch_size: int, *, answers: bool = True) -> None:
    reasoner = shapes.reasoner_of("gpt2")
    reasoner = Codi(shapes.as_loaded(reasoner.lm), reasoner.projection, reasoner.tokenizer, reasoner.markers)
    heads = list(product(range(12), range(12)))[:: 144 // n_cuts][:n_cuts]
    cuts = [ablate_head(head, edit=Zero()).parts for head in heads]
    rng = random.Random(0)
    setting = Setting(batch_size, batch_size, N_THOUGHTS, rounds=rounds)
    inputs = [
        [" ".join(str(rng.randrange(100, 50_000)) for _ in range(length)) for length in lengths]
        for lengths in round_lengths(setting)
    ]
    for told in (False, True)[: 1 + answers]:
        shared, apart = (work(reasoner, inputs[0], cuts[:6], told) for work in (swept, one_by_one))
        print(
            f"GPT-2 124M shape, {len(cuts)} single heads, batches of {batch_size}, "
            f"{'an answer of 8 tokens told' if told else 'thoughts alone'}; "
            f"largest difference {(shared - apart).abs().max():.1e}"
        )
        variants = {
            "shared": lambda prompts, told=told: swept(reasoner, prompts, cuts, told),
            "apart": lambda prompts, told=told: one_by_one(reasoner, prompts, cuts, told),
        }
        show(variants, inputs, "shared", ["apart"])


@torch.inference_mode()
def swept(reasoner: LatentReasoner, prompts: Sequence[str], cuts: Sequence[Parts], told: bool) -> torch.Tensor:
    """Last hidden states (row, hidden) after all cuts, copies as many as fit at once."""
    ids = [reasoner.prompt(prompt) for prompt in prompts]
    reading = BatchPass(reasoner, Taps(), N_THOUGHTS)
    reading.question([prompt[:-1] for prompt in ids])
    n_copies, states = copies_at_once(reasoner, list(map(len, ids)), N_THOUGHTS), []
    for start in range(0, len(cuts), n_copies):
        some = cuts[start : start + n_copies]
        fork = reading.fork(len(some), taps=Taps([Variants(some, len(ids))]))
        states.append(_answered(fork, ids, told))
    return torch.cat(states)


@torch.inference_mode()
def one_by_one(reasoner: LatentReasoner, prompts: Sequence[str], cuts: Sequence[Parts], told: bool) -> torch.Tensor:
    """The same, each cut a run of its own."""
    ids = [reasoner.prompt(prompt) for prompt in prompts]
    states = []
    for parts in cuts:
        reading = BatchPass(reasoner, Taps(parts), N_THOUGHTS)
        reading.question([prompt[:-1] for prompt in ids])
        states.append(_answered(reading, ids, told))
    return torch.cat(states)


def _answered(reading: BatchPass, prompts: Sequence[Sequence[int]], told: bool) -> torch.Tensor:
    state = think(reading, prompts[0][-1], N_THOUGHTS).state
    if told:
        tell(reading, state, [SPOKEN] * len(state))
    return state


def show(
    variants: dict[str, Callable[[Any], object]],
    inputs: Sequence[Any],
    name: str,
    others: Sequence[str],
    *,
    inverse: bool = False,
) -> None:
    seconds = interleave(variants, inputs)
    for variant, values in seconds.items():
        print(f"  {variant:12} {spread(values, 1)} CPU seconds")
    for other in others:
        above, below = (name, other) if inverse else (other, name)
        print(f"  {above} / {below}: {spread(ratios(seconds, above, below))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=("plan", "sweep"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cuts", type=int)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--thoughts-alone", action="store_true", help="leave out the sweep with told answers")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if asked.table != "sweep":
        plan(asked.cuts or 200, asked.problems, asked.rounds, 32)
    if asked.table != "plan":
        sweep(asked.cuts or 48, asked.rounds, 16, answers=not asked.thoughts_alone)


if __name__ == "__main__":
    main()
