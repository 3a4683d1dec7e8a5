"""The generators of the bundled problems, from a seed: stories of arithmetic, and questions on graphs.

- *arithmetic*: word problems like those of GSM8K, only smaller: a chain of additions, subtractions and multiplications
  on whole numbers from 1 to 30, its steps written as `<<12-5=7>>`, the last result being the answer. Told as a running
  amount, as packs (boxes times contents), as a chain of people who are compared, or as shopping.
- *graphs*: which of two nodes can be reached from a root, as in ProsQA, in words or in node tokens. The steps are the
  edges of a shortest path; both candidates lie equally deep, each below a root of its own.

in: an index, a split and a seed; out: a problem. The split of a problem is a hash of its steps, or of its graph, so
that test and train differ in what is asked, not only in how it is told.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from thoughtlens.problems.rows import GRAPH_FIELD, Problem, Row, read_problems, shortest_path

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


_MOST_NODES: Final = 24
_PEOPLE: Final = tuple(name for pair in zip(_HE, _SHE, strict=True) for name in pair)
_KINDS: Final = tuple(
    f"{onset}{rime}pus"
    for rime in ("om", "ur")
    for onset in ("b", "d", "f", "g", "h", "k", "l", "m", "p", "r", "t", "v")
)


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
    return _split_of_text("".join(steps))


def _split_of_text(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
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


def graph_row(index: int, *, split: str, seed: int = 0) -> dict[str, Any]:
    """Draw graph `index` of an endless split as a row with the fields of ProsQA's files.

    Two trees with the same number of levels, 3 or 4, hold `_MOST_NODES` nodes at most: one from the root to the target,
    one from another root to the other candidate. More edges are drawn inside the trees and from the second tree to the
    first; none of them shortens a path, and none leads from the first tree to the second. Nodes are numbered at random.
    """
    rng = random.Random(f"graph/{seed}/{split}/{index}")
    while True:
        depth = rng.choice((3, 4))
        sizes = [[1, *(rng.randint(1, 3) for _ in range(depth))] for _ in range(2)]
        n_nodes = sum(map(sum, sizes))
        if n_nodes > _MOST_NODES:
            continue
        numbers = iter(rng.sample(range(n_nodes), n_nodes))
        near, far = ([[next(numbers) for _ in range(size)] for size in of] for of in sizes)
        edges = _tree_edges(rng, near) | _tree_edges(rng, far)
        # Neither candidate has such an edge: they are alike in all but what leads to them.
        edges |= {
            (rng.choice(rng.choice(far[:-1])), rng.choice(rng.choice(near[1:-1]))) for _ in range(rng.randint(2, 4))
        }
        told = rng.sample(sorted(edges), len(edges))
        if _split_of_text(repr((sorted(edges), near[0]))) == split:
            return _graph_fields(rng, f"{split}_{index}", told, near, far)


def graph_problem(index: int, *, split: str, seed: int = 0, in_tokens: bool = False) -> Problem:
    """Draw graph problem `index` of an endless split; the same arguments always give the same problem.

    Args:
        index: which problem of the stream.
        split: `train`, `validation` or `test`; no graph of one is in another.
        seed: which stream.
        in_tokens: node tokens in the place of words.

    Returns:
        The problem, with id `{split}_{index}`: which of two nodes can be reached from the root, with the edges of a
        shortest path as steps.

    Example:
        >>> problem = graph_problem(0, split="train")
        >>> problem.question[-25:], problem.answer, len(problem.steps)
        ('s Zoe a durpus or rompus?', 'Zoe is a durpus.', 4)

    Reference: ProsQA (Hao et al. 2024, arXiv 2412.06769); node tokens as in Zhu et al. 2025, arXiv 2505.12514.
    """
    fields = {"question": GRAPH_FIELD} if in_tokens else None
    return read_problems([Row(1, graph_row(index, split=split, seed=seed))], prefix=split, place=str, fields=fields)[0]


def _tree_edges(rng: random.Random, levels: list[list[int]]) -> set[tuple[int, int]]:
    """Every node has a parent one level up; more edges go one level down at most, so that depths stay as they are."""
    edges = {(rng.choice(above), node) for above, level in pairwise(levels) for node in level}
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(levels) - 1)
        edges.add((rng.choice(levels[at]), rng.choice(levels[at + 1])))
    return edges


def _graph_fields(
    rng: random.Random, name: str, edges: list[tuple[int, int]], near: list[list[int]], far: list[list[int]]
) -> dict[str, Any]:
    roots, (target, other) = (near[0][0], far[0][0]), (near[-1][0], far[-1][0])
    kinds, people = iter(rng.sample(_KINDS, len(_KINDS))), iter(rng.sample(_PEOPLE, 2))
    names = [next(people if node in roots else kinds) for node in range(sum(map(len, near + far)))]
    first, second = rng.sample((names[target], names[other]), 2)
    told = [_worded(names, roots, source, end) for source, end in edges]
    path = shortest_path(edges, roots[0], target)
    return {
        "id": name,
        "question": " ".join([*told, f"Is {names[roots[0]]} a {first} or {second}?"]),
        "answer": f"{names[roots[0]]} is a {names[target]}.",
        "steps": [_worded(names, roots, source, end) for source, end in pairwise(path)],
        "idx_to_symbol": names,
        "edges": [list(edge) for edge in edges],
        "root": roots[0],
        "target": target,
        "neg_target": other,
    }


def _worded(names: Sequence[str], roots: Sequence[int], source: int, end: int) -> str:
    return f"{'' if source in roots else 'Every '}{names[source]} is a {names[end]}."


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
