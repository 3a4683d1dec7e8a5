"""The names of positions, and the integer codes that stand for them inside a forward pass.

A *slot* is a named position, or a named group of positions, on the query or the key axis:

    first  question  bot  z1 … zT  eot  answer

`first` is the prompt's first token, kept apart since models park attention there; `question` is every other prompt
token, pooled. The thought `z1` is the first vector fed back: row `z1` is the query made when `z1` is the input.
The code of a slot is its index on the key axis, so that codes of both axes compare directly.

Also the names of heads and edges, of families of cuts and of steps of an order, and the one kind of text array that
labels, Zarr and tables all take.
"""

import re
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

FIRST: Final = "first"
QUESTION: Final = "question"
BOT: Final = "bot"
EOT: Final = "eot"
ANSWER: Final = "answer"
TEXT: Final = "text"
"""A generated token that is not the `answer` query: it can be cut, and is a row of no array."""

PAD_CODE: Final = -1
"""Code of padding: on no axis, never recorded."""

MAX_THOUGHTS: Final = 32


def thought_names(n_thoughts: int) -> list[str]:
    """Names of the thoughts, `z1 … zT`."""
    return [f"z{k}" for k in range(1, n_thoughts + 1)]


def query_names(n_thoughts: int) -> list[str]:
    """Names on the query axis, in the order in which the positions are met."""
    return [BOT, *thought_names(n_thoughts), EOT, ANSWER]


def key_names(n_thoughts: int) -> list[str]:
    """Names on the key axis, in the order in which the positions are met."""
    return [FIRST, QUESTION, *query_names(n_thoughts)]


def slot_codes(n_thoughts: int) -> dict[str, int]:
    """Code of each slot: its index on the key axis."""
    return {name: code for code, name in enumerate(key_names(n_thoughts))}


def text_code(n_thoughts: int) -> int:
    """Code of a generated token that is not the `answer` query: met, but a row of no array."""
    return len(key_names(n_thoughts))


RANDOM: Final = "random order"
"""What the names of random orders begin with."""


def step_label(order: str, k: int) -> str:
    """The label of the cut of an order's first k."""
    return f"{order} · first {k}"


def text(names: npt.ArrayLike | Iterable[str]) -> np.ndarray:
    """Names as variable-length strings: those of fixed length warn in Zarr 3."""
    return np.array(names, dtype=np.dtypes.StringDType())


def head(layer: int, number: int) -> str:
    """The name of a head, such as `L4H5`."""
    return f"L{layer}H{number}"


def head_place(name: str) -> tuple[int, int] | None:
    """Layer and number of the head of this name; None if it names no head."""
    found = re.fullmatch(r"L(\d+)H(\d+)", name)
    return None if found is None else (int(found[1]), int(found[2]))


def edge(query: str, key: str) -> str:
    """The name of an edge, such as `z4 ⊣ z1`."""
    return f"{query} ⊣ {key}"


def edge_names(n_thoughts: int) -> list[tuple[str, str]]:
    """Every edge (query, key) from a thought to an earlier one, in the order in which they are met."""
    names = thought_names(n_thoughts)
    return [(query, key) for place, query in enumerate(names) for key in names[:place]]


HEADS: Final = "heads"
KV_GROUPS: Final = "kv_groups"
THOUGHTS: Final = "thoughts"
EDGES: Final = "edges"
WHOLE: Final = "whole"
"""Families of cuts: of single heads, key-value groups, thoughts and edges, and of all thoughts at once."""
