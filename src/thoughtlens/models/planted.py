"""The planted reasoner: built by hand, without training, so that what every head does is known.

In: the strengths of its heads; out: a reasoner, its attention in closed form, and problems that it solves.

- Each role of `PLANTED` is a head, and a table says where each thought looks: `planted_attention` gives those tables,
  `planted_weights` writes them into a GPT-2. Rows of `bot`, `eot` and `answer` are even in every head but the carrier.
- The carrier alone moves what the answer needs: at `bot` it finds the largest number of the question, which becomes z1
  and is handed on to zT; at the answer it reads the last thought. What the other heads write is never read.

It can do one task: naming the largest number from 0 to 99 of a question.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import torch
import xarray as xr
from transformers import AutoTokenizer

from thoughtlens.errors import OptionError
from thoughtlens.models.catalog import bundled
from thoughtlens.models.checkpoint import digest
from thoughtlens.models.codi import Codi
from thoughtlens.models.planted_weights import (
    N_HEADS,
    N_LAYERS,
    Head,
    carrying,
    even,
    looking,
    nothing,
    planted_decoder,
    planted_projection,
)
from thoughtlens.models.reasoner import Markers
from thoughtlens.notation import BOT, FIRST, MAX_THOUGHTS, key_names, text, thought_names
from thoughtlens.problems import Problem

PLANTED: Final[Mapping[str, tuple[int, int]]] = {
    "sink": (0, 0),
    "even": (0, 1),
    "sequential": (0, 2),
    "carrier": (0, 3),
    "hub": (1, 0),
    "thoughts": (1, 1),
    "skip": (1, 2),
    "nothing": (1, 3),
}
"""Layer and head of each role. In the rows of thoughts `even`, `carrier` and `nothing` attend evenly to all positions,
`thoughts` attends evenly to the thoughts so far, the query itself included; the others have a strength."""

PLANTED_TYPES: Final[Mapping[str, str]] = {
    "sink": "first-token",
    "even": "no clear type",
    "sequential": "previous-thought",
    "carrier": "read-out",
    "hub": "hub",
    "thoughts": "self",
    "skip": "skip",
    "nothing": "no clear type",
}
"""The type of head, of `thoughtlens.analysis`, that each role is; `thoughts` favours itself, most of all z1."""

TOKENIZER: Final = "tiny-gpt2"
"""The bundled model whose tokenizer is used: every number below 100 is one token there."""

_TABLED = ("hub", "sequential", "skip", "sink", "thoughts")


@dataclass(frozen=True)
class Strengths:
    """How much of a thought's row goes to the head's target.

    What is left is split evenly over the other earlier thoughts and `first`; the sink's over the thoughts seen, the
    query itself included. A row without its target (z1 has no earlier thought) is split evenly over the same.

    Attributes:
        hub: on z1.
        sequential: on the thought before.
        skip: of the last thought alone, on the first ⌈T/2⌉ thoughts (three of six), in equal parts.
        sink: on the first token.
    """

    hub: float = 0.7
    sequential: float = 0.4
    skip: float = 0.95
    sink: float = 0.9

    def __post_init__(self) -> None:
        for name, strength in asdict(self).items():
            if not isinstance(strength, int | float) or not 0.0 <= strength <= 1.0:
                raise OptionError(f"the strength {name} is {strength!r}, expected a share of attention from 0 to 1.")


def planted_reasoner(
    strengths: Strengths = Strengths(),
    *,
    n_thoughts: int = 6,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Codi:
    """Build the planted reasoner.

    Args:
        strengths: of the hub, sequential, skip and sink heads.
        n_thoughts: T, 1 to 32; the skip head acts at the T-th thought, all others at any.
        dtype: float32 or float64; half precision keeps the answers and blurs the attention (0.004 in float16).
        device: where to put it.

    Returns:
        The reasoner, in evaluation mode; `planted_attention` gives its attention in closed form.

    Raises:
        OptionError: T is out of range.

    Example:
        >>> from thoughtlens.reasoning import reason
        >>> reason(planted_reasoner(), ["Which of 3, 81 and 20 is the largest?"]).texts
        ['The answer is: 81']
    """
    tokenizer = AutoTokenizer.from_pretrained(bundled()[TOKENIZER], local_files_only=True)
    markers = Markers(len(tokenizer))
    heads = {place: _head(role, strengths, n_thoughts) for role, place in PLANTED.items()}
    lm, projection = planted_decoder(tokenizer, markers, heads), planted_projection()
    provenance = {
        "name": "planted",
        "sha256": digest(lm, projection),
        "strengths": asdict(strengths),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "architecture": lm.config.model_type,
    }
    lm, projection = (module.to(device=device, dtype=dtype).eval() for module in (lm, projection))
    return Codi(lm, projection, tokenizer, markers, n_thoughts, provenance=provenance)


def planted_attention(
    n_question_tokens: int,
    strengths: Strengths = Strengths(),
    *,
    n_thoughts: int = 6,
) -> xr.DataArray:
    """The attention of every thought of the planted reasoner in closed form.

    Args:
        n_question_tokens: prompt tokens before `bot`; what even heads give a thought depends on it.
        strengths: as given to `planted_reasoner`.
        n_thoughts: T.

    Returns:
        dims (layer, head, query, key): the thoughts as queries, every slot as key; rows sum to 1.

    Raises:
        OptionError: T is out of range.

    Example:
        >>> layer, head = PLANTED["hub"]
        >>> float(planted_attention(20)[layer, head].sel(query="z4", key="z1").round(3))
        0.7
    """
    thoughts, keys = thought_names(n_thoughts), key_names(n_thoughts)
    shape = (N_LAYERS, N_HEADS, n_thoughts, len(keys))
    coords = {"layer": range(N_LAYERS), "head": range(N_HEADS), "query": text(thoughts), "key": text(keys)}
    pattern = xr.DataArray(np.zeros(shape), dims=("layer", "head", "query", "key"), coords=coords)
    pattern[:] = _even_rows(n_question_tokens, n_thoughts)
    for role in _TABLED:
        table = _table(role, strengths, n_thoughts)[:n_thoughts, : n_thoughts + 1]
        layer, head = PLANTED[role]
        pattern[layer, head] = 0.0
        pattern[layer, head].loc[{"key": [FIRST, *thoughts]}] = table
    return pattern


def planted_problems(n: int, *, seed: int = 0) -> list[Problem]:
    """Draw problems that the planted reasoner solves: which of two to five numbers below 100 is the largest.

    Args:
        n: how many.
        seed: same seed, same problems.

    Returns:
        The problems, with ids `planted_0`, `planted_1`, …

    Example:
        >>> problem = planted_problems(1)[0]
        >>> problem.question, problem.answer
        ('Which of 97, 53, 5, 33 and 65 is the largest?', '97')
    """
    rng = random.Random(seed)
    draws = [rng.sample(range(100), rng.randint(2, 5)) for _ in range(n)]
    return [Problem(f"planted_{index}", _ask(numbers), str(max(numbers))) for index, numbers in enumerate(draws)]


def _ask(numbers: list[int]) -> str:
    return f"Which of {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} is the largest?"


def _head(role: str, strengths: Strengths, n_thoughts: int) -> Head:
    if role in _TABLED:
        return looking(_table(role, strengths, n_thoughts))
    return {"even": even, "carrier": carrying, "nothing": nothing}[role]()


def _table(role: str, strengths: Strengths, n_thoughts: int) -> np.ndarray:
    """Probabilities of a head, (thought, key), for all thoughts that there can be; keys are `first`, then thoughts."""
    if not 1 <= n_thoughts <= MAX_THOUGHTS:
        raise OptionError(f"the number of thoughts is {n_thoughts}, expected 1 to {MAX_THOUGHTS}; pass another.")
    table = np.zeros((MAX_THOUGHTS, MAX_THOUGHTS + 1))
    for row in range(MAX_THOUGHTS):
        favoured, others = _targets(role, row, n_thoughts)
        strength = getattr(strengths, role, 1.0) if favoured else 0.0
        table[row, favoured] = strength / max(1, len(favoured))
        table[row, others] = (1.0 - strength) / max(1, len(others))
    return table


def _targets(role: str, row: int, n_thoughts: int) -> tuple[list[int], list[int]]:
    """The keys that a thought's row favours, and the other keys that it sees; key 0 is `first`, key k is zk."""
    itself, earlier = row + 1, list(range(1, row + 1))
    favoured = {
        "hub": earlier[:1],
        "sequential": earlier[-1:],
        "skip": earlier[: (n_thoughts + 1) // 2] if itself == n_thoughts else [],
        "sink": [0],
        "thoughts": [*earlier, itself],
    }[role]
    seen = {"sink": [*earlier, itself], "thoughts": []}.get(role, [0, *earlier])
    return favoured, [key for key in seen if key not in favoured]


def _even_rows(n_question_tokens: int, n_thoughts: int) -> np.ndarray:
    keys = key_names(n_thoughts)
    n_tokens = np.array([1, n_question_tokens - 1, *[1] * (len(keys) - 2)])
    row, key = np.arange(n_thoughts)[:, None], np.arange(len(keys))[None, :]
    seen = np.where(key <= keys.index(BOT) + 1 + row, n_tokens, 0)
    even_rows: np.ndarray = seen / seen.sum(-1, keepdims=True)
    return even_rows
