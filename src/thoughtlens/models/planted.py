"""The planted reasoner: built by hand, without training, so that what every head does is known.

In: the strengths of its heads; out: a reasoner, its attention in closed form, and problems that it solves.

- Each role of `PLANTED` is a head, and a table says where each thought looks: `planted_attention` gives those tables,
  `planted_decoder` writes them into a GPT-2. Rows of `bot`, `eot` and `answer` are even in every head but the carrier.
- The carrier alone moves what the answer needs: at `bot` it finds the largest number of the question, which becomes z1
  and is handed on to zT; at the answer it reads the last thought. What the other heads write is never read.

It can do one task: naming the largest number from 0 to 99 of a question.

How the weights of the GPT-2 and of CODI's projection are written, in float32:

1. Features lie on channels of their own: the question's first token, the slot (`bot`, `z1` …), a number's two digits.
   Every position also has a large constant pair of channels, so that each LayerNorm divides by the same number
   everywhere, and one channel balances the sum of the others, so that none subtracts anything. So no norm changes what
   the tables say.
2. Slots can't be positions, since questions differ in length: `bot` has slot 0, and the projection moves each slot
   on by one, z1 to z2 to z3, and hands on the digits.
3. A head is a table of probabilities, thought by key; its scores are their logarithms, 20 above those of all other
   keys. What it reads it writes on channels that nothing reads.
4. The carrier compares numbers at `bot`, and slots where the answer's value is due.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from thoughtlens.errors import OptionError
from thoughtlens.models.catalog import bundled
from thoughtlens.models.checkpoint_files import digest
from thoughtlens.models.codi_and_coconut import Codi, projection
from thoughtlens.models.reasoner import Markers, answer_text
from thoughtlens.notation import BOT, FIRST, MAX_THOUGHTS, key_names, text, thought_names
from thoughtlens.problems import Problem
from thoughtlens.taps import ATTENTION

if TYPE_CHECKING:
    import xarray as xr

N_LAYERS: Final = 2
N_HEADS: Final = 4
_HEAD_WIDTH = 40
_WIDTH = N_HEADS * _HEAD_WIDTH

# Channels of the residual stream.
_CONSTANT = slice(0, 2)
_BALANCE = 2
_WANTS = 3  # the answer's value comes next
_FIRST = 4
_SLOT = slice(5, 6 + MAX_THOUGHTS)  # bot, z1 … z32
_HELD = slice(38, 58)  # ten tens and ten units: of the number that a token or a thought is
_FOUND = slice(58, 78)  # the same, of the number that the carrier has moved
_SEEN = slice(78, 79 + MAX_THOUGHTS)  # what the other heads write: the first token and thoughts that they see
_SAY = slice(111, 116)  # the words of the answer's prefix, then the end token

_CONSTANT_SIZE = 1024.0  # features of size 1 move a norm by a millionth
_MARGIN = 20.0  # of planted keys over all others, which get e⁻²⁰ = 2e-9 of their share
_SHARPNESS = 10.0  # of the carrier: between neighbouring numbers, and between neighbouring thoughts
_SAYING = 8.0  # the logit of a word that is due; a number's digits come to 4 at most


class Head(NamedTuple):
    """The weights of one head.

    Attributes:
        query: (hidden, channel).
        key: (hidden, channel).
        value: (hidden, channel).
        out: (channel, hidden).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


@torch.no_grad()
def planted_decoder(tokenizer: Any, markers: Markers, heads: Mapping[tuple[int, int], Head]) -> Any:
    """A GPT-2 whose every weight is set, its output layer apart from its embeddings and its MLPs empty.

    Args:
        tokenizer: one in which every number below 100 is a token.
        markers: ids of `bot` and `eot`.
        heads: what stands at each (layer, head).

    Returns:
        The language model, in float32.
    """
    config = GPT2Config(
        vocab_size=markers.n_embeddings,
        n_embd=_WIDTH,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_inner=1,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=markers.pad,
    )
    config._attn_implementation = ATTENTION
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then thrown away
        lm = GPT2LMHeadModel(config)
    for name, parameter in lm.named_parameters():
        parameter.fill_(_inert_gain(_WIDTH) if ".ln_" in name and name.endswith("weight") else 0.0)
    lm.transformer.wte.weight.copy_(_embeddings(tokenizer, markers))
    lm.transformer.wpe.weight.copy_(_positions(config.n_positions))
    lm.lm_head.weight.copy_(_output(tokenizer, markers))
    for (layer, head), planted in heads.items():
        attention = lm.transformer.h[layer].attn
        at = slice(head * _HEAD_WIDTH, (head + 1) * _HEAD_WIDTH)
        reads = torch.stack([planted.query, planted.key, planted.value], dim=1)
        attention.c_attn.weight.view(_WIDTH, 3, _WIDTH)[:, :, at] = reads
        attention.c_proj.weight[at] = planted.out
    return lm


def _inert_gain(width: int) -> float:
    """The gain that makes a LayerNorm over the two constant channels and small features hand on its input."""
    return _CONSTANT_SIZE * float((2 / width) ** 0.5)


def _balanced(rows: Tensor) -> Tensor:
    """Rows that are added to the residual stream, each summing to 0."""
    rows[:, _BALANCE] -= rows.sum(1)
    return rows


def _embeddings(tokenizer: Any, markers: Markers) -> Tensor:
    rows = torch.zeros(markers.n_embeddings, _WIDTH)
    say = range(*_SAY.indices(_WIDTH))
    for number, token in enumerate(_number_tokens(tokenizer)):
        rows[token, _digits(_HELD, number)] = 1.0
        rows[token, say[-1]] = 1.0
    for (before, _), channel in zip(pairwise([markers.eot, *_prefix_tokens(tokenizer)]), say, strict=False):
        rows[before, channel] = 1.0
    last = _prefix_tokens(tokenizer)[-1]
    rows[last, _WANTS] = 1.0
    rows[last, say[-1]] = 0.1  # says the end where no number was found
    rows[markers.bot, _SLOT.start] = 1.0
    return _balanced(rows)


def _positions(n_positions: int) -> Tensor:
    rows = torch.zeros(n_positions, _WIDTH)
    rows[0, _FIRST] = 1.0
    rows[:, _CONSTANT] = torch.tensor([_CONSTANT_SIZE, -_CONSTANT_SIZE])
    return _balanced(rows)


def _output(tokenizer: Any, markers: Markers) -> Tensor:
    """The output layer; it reads held and found digits alike, so that the logit lens of a thought names its number."""
    rows = torch.zeros(markers.n_embeddings, _WIDTH)
    for number, token in enumerate(_number_tokens(tokenizer)):
        rows[token, _digits(_HELD, number) + _digits(_FOUND, number)] = 1.0
    words = [*_prefix_tokens(tokenizer), tokenizer.eos_token_id]
    rows[words, range(*_SAY.indices(_WIDTH))] = _SAYING
    return rows


def _digits(where: slice, number: int) -> list[int]:
    return [where.start + number // 10, where.start + 10 + number % 10]


def _number_tokens(tokenizer: Any) -> list[int]:
    ids = [tokenizer(str(number))["input_ids"] for number in range(100)]
    assert all(len(tokens) == 1 for tokens in ids)
    return [tokens[0] for tokens in ids]


def _prefix_tokens(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(answer_text(""))["input_ids"]
    # Each word determines the next one, so none may come twice.
    assert len(set(ids)) == len(ids) == _SAY.stop - _SAY.start - 1
    return ids


def looking(table: np.ndarray) -> Head:
    """A head that looks where its table says: probabilities (thought, key), keys being `first`, then thoughts."""
    head = even()
    n_keys = table.shape[1]
    scores = np.where(table > 0, _MARGIN + np.log(np.where(table > 0, table, 1.0)), 0.0)
    head.query[_SLOT.start + 1 : _SLOT.stop, :n_keys] = torch.tensor(scores, dtype=torch.float32) * _HEAD_WIDTH**0.5
    return head


def even() -> Head:
    """A head that looks evenly at all that it sees."""
    head = nothing()
    sources = [_FIRST, *range(_SLOT.start + 1, _SLOT.stop)]
    order = torch.arange(len(sources))
    head.key[sources, order] = head.value[sources, order] = 1.0
    head.out[order, range(*_SEEN.indices(_WIDTH))] = 1.0
    return head._replace(out=_balanced(head.out))


def nothing() -> Head:
    """A head that looks evenly at all that it sees, and writes nothing."""
    query, key, value = (torch.zeros(_WIDTH, _HEAD_WIDTH) for _ in range(3))
    return Head(query, key, value, torch.zeros(_HEAD_WIDTH, _WIDTH))


def carrying() -> Head:
    """The carrier: `bot` looks for the largest number, the answer for the last thought; even everywhere else.

    Its first channel compares numbers (tens and units add up to the number and one), its second one slots.
    """
    head = nothing()
    head.query[_SLOT.start, 0] = head.query[_WANTS, 1] = _SHARPNESS * _HEAD_WIDTH**0.5
    head.key[_HELD, 0] = torch.cat([10.0 * torch.arange(10), torch.arange(10.0)]) + 0.5
    head.key[_SLOT, 1] = torch.arange(MAX_THOUGHTS + 1.0)
    order = torch.arange(20)
    head.value[range(*_HELD.indices(_WIDTH)), order] = 1.0
    head.out[order, range(*_FOUND.indices(_WIDTH))] = 1.0
    return head._replace(out=_balanced(head.out))


@torch.no_grad()
def planted_projection() -> Any:
    """CODI's projection: each slot moves on, and the digits found at `bot`, or held by a thought, are held next.

    Two GELUs a feature, GELU(50 x - 20) - GELU(50 x - 30) = 10 for x = 1 and 0 for x = 0, flat at both, so that an
    error in a feature does not grow from thought to thought.
    """
    slots, held, found = (range(*where.indices(_WIDTH)) for where in (_SLOT, _HELD, _FOUND))
    moves = [*pairwise(slots), *zip(held, held, strict=True), *zip(found, held, strict=True)]
    rising, falling, sources = range(len(moves)), range(len(moves), 2 * len(moves)), [source for source, _ in moves]
    with torch.random.fork_rng(devices=[]):
        prj: Any = projection(_WIDTH, 2 * len(moves))
    for parameter in prj.parameters():
        parameter.zero_()
    first, second, norm = prj[1], prj[3], prj.ln
    first.weight[rising, sources] = first.weight[falling, sources] = 50.0
    first.bias[rising], first.bias[falling] = -20.0, -30.0
    # Found digits count at `bot` alone: their bias is lower by 50, which only the slot of `bot` makes up for.
    gated = torch.tensor([source in found for source in sources]).repeat(2)
    first.weight[gated, _SLOT.start] = 50.0
    first.bias[gated] -= 50.0
    for unit, (_, target) in enumerate(moves):
        second.weight[[target, _BALANCE], unit] = torch.tensor([0.1, -0.1])
        second.weight[[target, _BALANCE], unit + len(moves)] = torch.tensor([-0.1, 0.1])
    second.bias[_CONSTANT] = torch.tensor([_CONSTANT_SIZE, -_CONSTANT_SIZE])
    norm.weight.fill_(_inert_gain(_WIDTH))
    norm.weight[_CONSTANT] = 0.0  # positions bring the constant: a thought is its features and nothing else
    return prj


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
) -> "xr.DataArray":
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
    import xarray as xr  # models can be loaded and run without it

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
