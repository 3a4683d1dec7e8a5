"""A setting (batch, lengths, thoughts) becomes CPU seconds of every method, round by round, and ratios of them.

A round is one batch out of the plan that extraction makes for GSM8K's 7,473 training questions (sorted by length, so
that a batch holds problems of about one length); the rounds' batches lie at even quantiles of length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.lengths import gsm8k_lengths
from benchmarks.methods import Products, Rows512, check_agreement, methods, n_question_tokens
from benchmarks.shapes import questions_of
from benchmarks.timing import Rounds, interleave, peak_memory, ratios


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        batch_size: problems a pass.
        n_problems: problems a round.
        n_thoughts: T.
        n_tokens: of every question; as in GSM8K if 0.
        rounds: how many.
        skip: methods to leave out.
    """

    batch_size: int = 16
    n_problems: int = 16
    n_thoughts: int = 6
    n_tokens: int = 0
    rounds: int = 5
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What came of it.

    Attributes:
        setting: what was measured.
        tokens: mean tokens of a question, by round.
        seconds: CPU seconds of each method, by round.
        operations: floating-point operations that the linear layers need, by round: of the questions alone under
            `question`, of 512 rows under `rows512`, of the whole pass under every other name.
        peaks: bytes above what the process rested at, of each method.
        worst: the largest difference between the methods in what they recorded.
    """

    setting: Setting
    tokens: list[float]
    seconds: Rounds
    operations: dict[str, list[int]]
    peaks: dict[str, int | None]
    worst: float

    def ratio(self, above: str, below: str) -> list[float]:
        """Seconds of one method over those of another, by round."""
        return ratios(self.seconds, above, below)

    def rates(self, name: str) -> list[float]:
        """Operations a CPU second, by round."""
        return [n / taken for n, taken in zip(self.operations[name], self.seconds[name], strict=True)]

    def share(self, name: str) -> list[float]:
        """A method's rate as a share of that of products of 512 rows in the same round."""
        return [mine / most for mine, most in zip(self.rates(name), self.rates("rows512"), strict=True)]


def measure(reasoner: Any, setting: Setting) -> Measured:
    """Rounds of every method, interleaved."""
    every = methods(reasoner, batch_size=setting.batch_size, n_thoughts=setting.n_thoughts)
    chosen = {name: method for name, method in every.items() if name not in setting.skip}
    inputs = [questions_of(lengths, reasoner.markers.vocabulary) for lengths in round_lengths(setting)]
    first = inputs[0][: min(4, setting.n_problems)]
    worst = check_agreement({name: method(first) for name, method in chosen.items()}, setting.n_thoughts)
    seconds = interleave(chosen, inputs)
    return Measured(
        setting,
        [round(mean(len(question.split()) for question in given), 1) for given in inputs],
        seconds,
        {name: [operations(reasoner, setting, name, given) for given in inputs] for name in chosen},
        {name: peak_memory(lambda method=method: method(inputs[-1])) for name, method in chosen.items()},
        worst,
    )


def operations(reasoner: Any, setting: Setting, name: str, questions: Sequence[str]) -> int:
    """What the linear layers need for these questions."""
    if name == "rows512":
        return Rows512(reasoner).operations
    n_steps = 0 if name == "question" else setting.n_thoughts + 1
    return Products(reasoner, setting.n_thoughts).operations(n_question_tokens(questions) + len(questions) * n_steps)


def round_lengths(setting: Setting) -> list[list[int]]:
    """Tokens of the questions of each round: runs of the sorted lengths at even quantiles, or all of one length."""
    if setting.n_tokens:
        return [[setting.n_tokens] * setting.n_problems] * setting.rounds
    lengths, n = sorted(gsm8k_lengths()), setting.n_problems
    middles = [int((k + 0.5) / setting.rounds * len(lengths)) for k in range(setting.rounds)]
    starts = [min(max(0, middle - n // 2), len(lengths) - n) for middle in middles]
    return [lengths[start : start + n] for start in starts]
