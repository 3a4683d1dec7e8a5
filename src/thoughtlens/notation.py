"""The names of positions, heads and edges, and the integer codes that stand for positions inside a forward pass.

A *slot* is a named position, or a named group of positions, on the query or the key axis:

    first  question  bot  z1 … zT  eot  answer

`first` is the prompt's first token, kept apart since models park attention there; `question` is every other prompt
token, pooled. The thought `z1` is the first vector fed back: row `z1` is the query made when `z1` is the input.
The code of a slot is its index on the key axis of a checkpoint that has every slot, so that codes of both axes compare
directly. A checkpoint may lack `bot`, `eot` or `answer`; then the axes of its runs do.

A head is called `L4H5` (layer 4, head 5, both from 0) and an edge `z4 ⊣ z1` (query z4, key z1). `text` makes the one
kind of text array that labels, Zarr and tables all take. The labels of cuts made one after the other are here, too.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

import numpy as np

from thoughtlens.errors import OptionError

FIRST: Final = "first"
QUESTION: Final = "question"
BOT: Final = "bot"
EOT: Final = "eot"
ANSWER: Final = "answer"
TEXT: Final = "text"
"""A generated token that is not the `answer` query: it can be cut, and is a row of no array."""

OPTIONAL: Final = (BOT, EOT, ANSWER)
"""Slots that a checkpoint may lack."""

PAD_CODE: Final = -1
"""Code of padding: on no axis, never recorded."""

GRAPH_GROUPS: Final = ("src", "tgt", "sep", "cand", "R", "root")
"""Groups of the tokens of a graph's question, which can be recorded and cut as keys on request: sources and targets of
the edges, the signs that close an edge, the two candidates, the sign before the root, and the root."""

MAX_THOUGHTS: Final = 32


def thought_names(n_thoughts: int) -> list[str]:
    """Names of the thoughts, `z1 … zT`."""
    return [f"z{k}" for k in range(1, n_thoughts + 1)]


def query_names(n_thoughts: int, slots: Collection[str] = OPTIONAL) -> list[str]:
    """Names on the query axis, in the order in which the positions are met; `slots` are those of OPTIONAL there are."""
    return [name for name in (BOT, *thought_names(n_thoughts), EOT, ANSWER) if name not in OPTIONAL or name in slots]


def key_names(n_thoughts: int, slots: Collection[str] = OPTIONAL) -> list[str]:
    """Names on the key axis, in the order in which the positions are met; `slots` as for `query_names`."""
    return [FIRST, QUESTION, *query_names(n_thoughts, slots)]


def slot_codes(n_thoughts: int) -> dict[str, int]:
    """Code of each slot: its index on the key axis."""
    return {name: code for code, name in enumerate(key_names(n_thoughts))}


def text_code(n_thoughts: int) -> int:
    """Code of a generated token that is not the `answer` query: met, but a row of no array."""
    return len(key_names(n_thoughts))


def group_code(name: str) -> int:
    """Code of a group of prompt tokens: below that of padding, so that no array has it as a column."""
    return PAD_CODE - 1 - GRAPH_GROUPS.index(name)


RANDOM: Final = "random order"
"""What the names of random orders begin with."""


def step_label(order: str, k: int) -> str:
    """The label of the cut of an order's first k."""
    return f"{order} · first {k}"


def text(names: Iterable[object]) -> np.ndarray:
    """Names as an array of variable-length strings: strings of fixed length warn in Zarr 3."""
    return np.array(names if isinstance(names, np.ndarray) else list(names), dtype=np.dtypes.StringDType())


def head_name(layer: int, head: int) -> str:
    """The name of a head, such as `L4H5`."""
    return f"L{layer}H{head}"


def head_place(name: str) -> tuple[int, int]:
    """Layer and head of a name such as `L4H5` or `l4h5`; `OptionError` if it is no such name."""
    found = re.fullmatch(r"L(\d+)H(\d+)", name.upper())
    if found is None:
        raise OptionError(f"found the head {name!r}, expected one such as L4H5; write layer and head so.")
    return int(found[1]), int(found[2])


def edge_name(query: str, key: str) -> str:
    """The name of the edge from a query to a key, such as `z4 ⊣ z1`."""
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
