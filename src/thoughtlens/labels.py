"""The names of positions, and the integer codes that stand for them inside a forward pass.

A *slot* is a named position, or a named group of positions, on the query or the key axis:

    first  question  bot  z1 … zT  eot  answer

`first` is the prompt's first token, kept apart since models park attention there; `question` is every other prompt
token, pooled. The thought `z1` is the first vector fed back: row `z1` is the query made when `z1` is the input.
The code of a slot is its index on the key axis, so that codes of both axes compare directly.
"""

from typing import Final

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
