"""The generator of the bundled problems: word problems like those of GSM8K, only smaller, from a seed.

A problem is a chain of additions, subtractions and multiplications on whole numbers from 1 to 30, told as a story, with
its steps written as `<<12-5=7>>`; the last result is the answer. Four kinds of story:

- *running*: somebody's amount changes, sentence by sentence;
- *packs*: the same, and the amount starts as boxes times contents;
- *chain*: each person has more, fewer or a multiple of what the one before has;
- *shopping*: something is bought and money is left.

The split of a problem is a hash of its steps alone, so that test and train differ in what is computed, not only in how
it is told.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from thoughtlens.problems.rows import Problem

LIMIT: Final = 30
"""Every value of a problem lies in 1 … LIMIT."""

DEFAULT_STEPS: Final[Mapping[int, float]] = {2: 0.25, 3: 0.4, 4: 0.35}
"""Share of problems by their number of steps."""

SPLITS: Final = ("test", "validation", *["train"] * 8)

_HE = ("Tom", "Ben", "Max", "Sam", "Leo", "Dan")
_SHE = ("Ann", "Eva", "Mia", "Zoe", "Amy", "Kim")
_THINGS = {
    "apples": "apple", "pens": "pen", "cards": "card", "books": "book", "coins": "coin",
    "eggs": "egg", "shells": "shell", "stamps": "stamp", "toys": "toy", "cakes": "cake",
}  # fmt: skip
_PACKS = ("boxes", "bags", "packs", "jars")
_GAIN = ("buys", "finds", "gets", "wins")
_LOSE = ("loses", "sells", "breaks", "drops")


class Step(NamedTuple):
    """One operation: `left operator right = result`."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        """The value of the step."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.operator]

    def __str__(self) -> str:
        return f"<<{self.left}{self.operator}{self.right}={self.result}>>"


class Story(NamedTuple):
    """A told chain of steps."""

    sentences: list[str]
    steps: list[Step]


def split_of(steps: Sequence[str]) -> str:
    """The split that a problem with these steps belongs to, whatever story tells them.

    Args:
        steps: as a problem has them, for instance `["<<2+3=5>>", "<<5*2=10>>"]`.

    Returns:
        `train` (8 of 10 problems), `validation` or `test`, by a hash of the steps.

    Example:
        >>> split_of(["<<2+3=5>>", "<<5*2=10>>"])
        'train'
    """
    digest = hashlib.blake2b("".join(steps).encode(), digest_size=4).digest()
    return SPLITS[int.from_bytes(digest, "big") % len(SPLITS)]


def arithmetic_problem(
    index: int, *, split: str, seed: int = 0, n_steps: Mapping[int, float] = DEFAULT_STEPS
) -> Problem:
    """Draw problem `index` of an endless split; the same arguments always give the same problem.

    Args:
        index: which problem of the stream.
        split: `train`, `validation` or `test`; no problem of one has the steps of a problem of another.
        seed: which stream.
        n_steps: number of steps (2 to 6) → how often it is drawn.

    Returns:
        The problem, with id `{split}_{index}`.

    Example:
        >>> problem = arithmetic_problem(0, split="train")
        >>> problem.question
        'Ben has 6 packs of 2 books. He loses 6. He buys 8 more. How many books does he have?'
        >>> problem.steps, problem.answer
        (('<<6*2=12>>', '<<12-6=6>>', '<<6+8=14>>'), '14')
    """
    rng = random.Random(f"{seed}/{split}/{index}")
    while True:
        count = rng.choices(list(n_steps), list(n_steps.values()))[0]
        story = _tell(rng, count)
        steps = tuple(map(str, story.steps))
        if len(steps) == count and split_of(steps) == split:
            return Problem(f"{split}_{index}", " ".join(story.sentences), str(story.steps[-1].result), steps)


def distinct_problems(
    n: int, *, split: str, seed: int = 0, n_steps: Mapping[int, float] = DEFAULT_STEPS
) -> list[Problem]:
    """The first n problems of a stream whose steps differ.

    Args:
        n: how many.
        split: `train`, `validation` or `test`.
        seed: which stream.
        n_steps: number of steps (2 to 6) → how often it is drawn.

    Returns:
        The problems in the order of the stream, with ids `{split}_0`, `{split}_1`, …

    Example:
        >>> [problem.id for problem in distinct_problems(3, split="test")]
        ['test_0', 'test_1', 'test_2']
    """
    found: dict[tuple[str, ...], Problem] = {}
    index = 0
    while len(found) < n:
        problem = arithmetic_problem(index, split=split, seed=seed, n_steps=n_steps)
        found.setdefault(problem.steps, problem)
        index += 1
    return [
        Problem(f"{split}_{row}", problem.question, problem.answer, problem.steps)
        for row, problem in enumerate(found.values())
    ]


def _tell(rng: random.Random, count: int) -> Story:
    kind = rng.choices((_running, _packs, _chain, _shopping), (0.4, 0.25, 0.25, 0.1))[0]
    return kind(rng, count)


def _running(rng: random.Random, count: int) -> Story:
    name, he, things = _person(rng)
    start = rng.randint(2, 12)
    story = Story([f"{name} has {start} {things}."], [])
    return _go_on(rng, story, start, count, he, f"How many {things} does {he.lower()} have?")


def _packs(rng: random.Random, count: int) -> Story:
    name, he, things = _person(rng)
    first = _draw_product(rng, 24)
    packed = f"{name} has {first.left} {rng.choice(_PACKS)} of {first.right} {things}."
    return _go_on(
        rng, Story([packed], [first]), first.result, count - 1, he, f"How many {things} does {he.lower()} have?"
    )


def _chain(rng: random.Random, count: int) -> Story:
    names = rng.sample(_HE + _SHE, count + 1)
    things = rng.choice(list(_THINGS))
    value = rng.randint(2, 12)
    story = Story([f"{names[0]} has {value} {things}."], [])
    for before, name in pairwise(names):
        step = _draw_step(rng, value)
        story.steps.append(step)
        story.sentences.append(_compared(step, name, before))
        value = step.result
    story.sentences.append(f"How many {things} does {names[count]} have?")
    return story


def _shopping(rng: random.Random, count: int) -> Story:
    name, he, things = _person(rng)
    money = rng.choice((20, 30))
    cost = _draw_product(rng, money - 1)
    left = Step(money, "-", cost.result)
    told = [
        f"A {_THINGS[things]} costs {cost.left} dollars.",
        f"{name} has {money} dollars.",
        f"{he} buys {cost.right} {things}.",
    ]
    return _go_on(rng, Story(told, [cost, left]), left.result, count - 2, he, "How many dollars are left?", " dollars")


def _go_on(rng: random.Random, story: Story, value: int, count: int, he: str, question: str, unit: str = "") -> Story:
    for _ in range(count):
        step = _draw_step(rng, value, doubling=not unit)
        story.steps.append(step)
        story.sentences.append(_changed(rng, step, he, unit))
        value = step.result
    story.sentences.append(question)
    return story


def _person(rng: random.Random) -> tuple[str, str, str]:
    he, names = rng.choice((("He", _HE), ("She", _SHE)))
    return rng.choice(names), he, rng.choice(list(_THINGS))


def _draw_product(rng: random.Random, most: int) -> Step:
    while True:
        step = Step(rng.randint(2, 9), "*", rng.randint(2, 9))
        if step.result <= most:
            return step


def _draw_step(rng: random.Random, value: int, *, doubling: bool = True) -> Step:
    while True:
        operator = rng.choice("+-*" if doubling else "+-")
        step = Step(value, operator, rng.choice((2, 3)) if operator == "*" else rng.randint(1, 9))
        if 1 <= step.result <= LIMIT:
            return step


def _changed(rng: random.Random, step: Step, he: str, unit: str) -> str:
    if step.operator == "+":
        return f"{he} {rng.choice(_GAIN[1:] if unit else _GAIN)} {step.right} more{unit}."
    if step.operator == "-":
        return f"{he} {rng.choice(('loses', 'drops') if unit else _LOSE)} {step.right}{unit}."
    return f"{he} {'doubles' if step.right == 2 else 'triples'} them."


def _compared(step: Step, name: str, before: str) -> str:
    if step.operator == "*":
        return f"{name} has {'twice' if step.right == 2 else 'three times'} as many as {before}."
    return f"{name} has {step.right} {'more' if step.operator == '+' else 'fewer'} than {before}."
