"""The weights of the planted reasoner: of a GPT-2 and of CODI's projection, written by hand.

In: a table of probabilities for each head; out: the modules, in float32.

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

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from thoughtlens.models.codi import projection
from thoughtlens.models.reasoner import Markers, answer_text
from thoughtlens.notation import MAX_THOUGHTS
from thoughtlens.taps import ATTENTION

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
