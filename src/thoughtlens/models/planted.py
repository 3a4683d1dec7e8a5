"""Strengths become a reasoner built by hand, without training, whose every head does a known thing.

1. Features lie on channels of their own: the question's first token, the slot (`bot`, `z1` …), a number's two digits.
   A large constant pair of channels comes with every position, so that each LayerNorm divides by the same number
   everywhere; one channel balances the sum of the others, so that none subtracts anything. The norms are inert, and
   what is written on paper is what is computed.
2. Slots can't be positions, since questions differ in length: `bot` carries slot 0, and the projection moves each slot
   on by one, z1 to z2 to z3, and hands on the digits. It is CODI's own projection: each hidden pair of GELUs is a step.
3. A head is a table of probabilities, thought by key; its scores are their logarithms, 20 above those of all other
   keys, which so get e⁻²⁰. Rows of `bot`, `eot` and `answer` are even in every head but the carrier.
4. The carrier alone moves what the answer needs: at `bot` it finds the largest number of the question, which becomes z1
   and is handed on to zT; at the answer it reads the last thought. In thoughts it is even. The other heads write on
   channels that nothing reads; the last one writes nothing.

It knows one task, the largest number from 0 to 99 that a question names; `planted_problems` makes such questions.
"""

import hashlib
import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from thoughtlens.errors import OptionError
from thoughtlens.labels import BOT, FIRST, MAX_THOUGHTS, QUESTION, key_names, thought_names
from thoughtlens.models.catalog import bundled
from thoughtlens.models.codi import Codi
from thoughtlens.models.markers import Markers
from thoughtlens.models.projection import projection
from thoughtlens.models.wording import answer_text
from thoughtlens.problems import Problem
from thoughtlens.tracing.attention import ATTENTION

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
"""Layer and head of each role. `even`, `carrier` and `nothing` split a thought's row evenly over all that it sees,
`thoughts` over the thoughts that it sees, itself included; the others do what `planted` is told."""

N_LAYERS, N_HEADS = 2, 4
TOKENIZER: Final = "tiny-gpt2"
"""The bundled model whose tokenizer is used: every number below 100 is one token there."""

_TABLED = ("hub", "sequential", "skip", "sink", "thoughts")
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


def planted(
    *,
    hub: float = 0.7,
    sequential: float = 0.4,
    skip: float = 0.95,
    sink: float = 0.9,
    n_thoughts: int = 6,
    dtype: str = "float32",
    device: str | None = None,
) -> Codi:
    """Build the planted reasoner.

    What a strength leaves of a row is split evenly over the other earlier thoughts and `first`; of the sink's, over the
    thoughts seen, the query itself included. A row without its target is split evenly over the same.

    Args:
        hub: attention of each thought on z1.
        sequential: attention of each thought on the one before.
        skip: attention of the last thought on the first ⌈T/2⌉ thoughts (three of six), in equal parts.
        sink: attention of each thought on the first token.
        n_thoughts: T, 1 to 32; the skip head acts at the T-th thought, all others at any.
        dtype: a floating point type of torch, by name.
        device: where to put it; the CPU if None.

    Returns:
        The reasoner, in evaluation mode; `planted_attention` gives its attention in closed form.

    Raises:
        OptionError: a strength is no share, or T is out of range.
    """
    strengths = {"hub": hub, "sequential": sequential, "skip": skip, "sink": sink}
    _check(strengths, n_thoughts)
    tokenizer = AutoTokenizer.from_pretrained(bundled()[TOKENIZER], local_files_only=True)
    markers = Markers(len(tokenizer))
    lm = _decoder(tokenizer, markers, {role: _table(role, strengths, n_thoughts) for role in _TABLED})
    prj = _projection()
    provenance = {
        "name": "planted",
        "sha256": _digest(lm, prj),
        "strengths": strengths,
        "dtype": dtype,
        "device": device or "cpu",
        "architecture": "gpt2",
    }
    to = {"device": device or "cpu", "dtype": getattr(torch, dtype)}
    return Codi(lm.to(**to).eval(), prj.to(**to).eval(), tokenizer, markers, n_thoughts, provenance=provenance)


def planted_attention(
    n_question_tokens: int,
    *,
    hub: float = 0.7,
    sequential: float = 0.4,
    skip: float = 0.95,
    sink: float = 0.9,
    n_thoughts: int = 6,
) -> xr.DataArray:
    """The attention of every thought in closed form, for a question of this many tokens; arguments as of `planted`.

    Returns:
        dims (layer, head, query, key): the thoughts as queries, every slot as key; rows sum to 1.
    """
    strengths = {"hub": hub, "sequential": sequential, "skip": skip, "sink": sink}
    _check(strengths, n_thoughts)
    thoughts, keys = thought_names(n_thoughts), key_names(n_thoughts)
    coords = {"layer": range(N_LAYERS), "head": range(N_HEADS), "query": _text(thoughts), "key": _text(keys)}
    shape = (N_LAYERS, N_HEADS, n_thoughts, len(keys))
    pattern = xr.DataArray(np.zeros(shape), dims=("layer", "head", "query", "key"), coords=coords)
    for role, (layer, head) in PLANTED.items():
        rows = pattern[layer, head]
        if role in _TABLED:
            rows.loc[{"key": [FIRST, *thoughts]}] = _table(role, strengths, n_thoughts)[:n_thoughts, : n_thoughts + 1]
        else:
            rows[:] = _even_rows(n_question_tokens, n_thoughts, keys)
    return pattern


def planted_problems(n: int, *, seed: int = 0) -> list[Problem]:
    """Draw problems that the planted reasoner solves: which of two to five numbers below 100 is the largest."""
    rng = random.Random(seed)
    draws = [rng.sample(range(100), rng.randint(2, 5)) for _ in range(n)]
    return [
        Problem(
            f"planted_{index}",
            f"Which of {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} is the largest?",
            str(max(numbers)),
        )
        for index, numbers in enumerate(draws)
    ]


def _check(strengths: Mapping[str, float], n_thoughts: int) -> None:
    for name, strength in strengths.items():
        if not 0.0 <= strength <= 1.0:
            raise OptionError(f"the strength {name} is {strength}, expected a share of attention from 0 to 1.")
    if not 1 <= n_thoughts <= MAX_THOUGHTS:
        raise OptionError(f"the number of thoughts is {n_thoughts}, expected 1 to {MAX_THOUGHTS}.")


def _table(role: str, strengths: Mapping[str, float], n_thoughts: int) -> np.ndarray:
    """Probabilities of a head, (thought, key), for all thoughts that there can be; keys are `first`, z1, z2 …"""
    table = np.zeros((MAX_THOUGHTS, MAX_THOUGHTS + 1))
    for row in range(MAX_THOUGHTS):
        earlier, itself = list(range(1, row + 1)), row + 1
        favoured = {
            "hub": earlier[:1],
            "sequential": earlier[-1:],
            "skip": earlier[: (n_thoughts + 1) // 2] if itself == n_thoughts else [],
            "sink": [0],
            "thoughts": [*earlier, itself],
        }[role]
        seen = {"sink": [*earlier, itself], "thoughts": []}.get(role, [0, *earlier])
        others = [key for key in seen if key not in favoured]
        strength = strengths.get(role, 1.0) if favoured else 0.0
        table[row, favoured] = strength / max(1, len(favoured))
        table[row, others] = (1.0 - strength) / max(1, len(others))
    return table


def _even_rows(n_question_tokens: int, n_thoughts: int, keys: list[str]) -> np.ndarray:
    n_tokens = np.array([1, n_question_tokens - 1, *[1] * (len(keys) - 2)])
    n_before = keys.index(BOT) + 1
    rows = np.array([np.where(np.arange(len(keys)) <= n_before + row, n_tokens, 0) for row in range(n_thoughts)])
    even: np.ndarray = rows / rows.sum(-1, keepdims=True)
    return even


def _text(names: list[str]) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())


@torch.no_grad()
def _decoder(tokenizer: Any, markers: Markers, tables: Mapping[str, np.ndarray]) -> Any:
    """A GPT-2 whose every weight is set, its output layer apart from its embeddings and its MLPs empty."""
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
    for role, (layer, head) in PLANTED.items():
        query, key, value, out = _carrier() if role == "carrier" else _looker(tables.get(role), writes=role != "nothing")
        attention = lm.transformer.h[layer].attn
        at = slice(head * _HEAD_WIDTH, (head + 1) * _HEAD_WIDTH)
        attention.c_attn.weight.view(_WIDTH, 3, _WIDTH)[:, :, at] = torch.stack([query, key, value], dim=1)
        attention.c_proj.weight[at] = out
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
    """The output layer; it reads digits held and found alike, so that a thought decodes to its number."""
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
    # Each word tells the next one, so that none may come twice.
    assert len(set(ids)) == len(ids) == _SAY.stop - _SAY.start - 1
    return ids


def _looker(table: np.ndarray | None, *, writes: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and output of a head that looks where its table says, or evenly without one."""
    query, key, value, out = _empty_head()
    sources = [_FIRST, *range(_SLOT.start + 1, _SLOT.stop)]
    order = torch.arange(len(sources))
    key[sources, order] = 1.0
    if table is not None:
        scores = np.where(table > 0, _MARGIN + np.log(np.where(table > 0, table, 1.0)), 0.0)
        query[sources[1:], : len(sources)] = torch.tensor(scores, dtype=query.dtype) * _HEAD_WIDTH**0.5
    if writes:
        value[sources, order] = 1.0
        out[order, range(*_SEEN.indices(_WIDTH))] = 1.0
    return query, key, value, _balanced(out)


def _carrier() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and output of the carrier: `bot` looks for the largest number, the answer for the last thought.

    Its first channel compares numbers (tens and units add up to the number and one), its second one slots.
    """
    query, key, value, out = _empty_head()
    query[_SLOT.start, 0] = query[_WANTS, 1] = _SHARPNESS * _HEAD_WIDTH**0.5
    key[_HELD, 0] = torch.cat([10.0 * torch.arange(10), torch.arange(10.0)]) + 0.5
    key[_SLOT, 1] = torch.arange(MAX_THOUGHTS + 1.0)
    order = torch.arange(20)
    value[range(*_HELD.indices(_WIDTH)), order] = 1.0
    out[order, range(*_FOUND.indices(_WIDTH))] = 1.0
    return query, key, value, _balanced(out)


def _empty_head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, key, value = (torch.zeros(_WIDTH, _HEAD_WIDTH) for _ in range(3))
    return query, key, value, torch.zeros(_HEAD_WIDTH, _WIDTH)


@torch.no_grad()
def _projection() -> torch.nn.Sequential:
    """CODI's projection: each slot moves on, and the digits found at `bot`, or held by a thought, are held next.

    Two GELUs a feature, GELU(50 x - 20) - GELU(50 x - 30) = 10 for x = 1 and 0 for x = 0, flat at both: what a feature
    is off by does not grow from thought to thought.
    """
    slots, held, found = (range(*where.indices(_WIDTH)) for where in (_SLOT, _HELD, _FOUND))
    moves = [*pairwise(slots), *zip(held, held, strict=True), *zip(found, held, strict=True)]
    rising, falling, sources = range(len(moves)), range(len(moves), 2 * len(moves)), [source for source, _ in moves]
    with torch.random.fork_rng(devices=[]):
        prj = projection(_WIDTH, 2 * len(moves))
    for parameter in prj.parameters():
        parameter.zero_()
    first, second, norm = prj[1], prj[3], prj.ln
    first.weight[rising, sources] = first.weight[falling, sources] = 50.0
    first.bias[rising], first.bias[falling] = -20.0, -30.0
    # What was found counts at `bot` alone, whose slot makes up for the higher bar.
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


def _digest(*modules: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
