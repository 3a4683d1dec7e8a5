"""Checks of a loaded model on two short problems, against passes that share only the weights with the thinking loop.

in: a reasoner; out: a `Check` each of markers, tokenizer, attention rows, padding, batching, incremental passes, taps.
A model that fails a check should not be studied: its numbers would be about the software and not about the model.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.reasoning.loop import Trace, reason
from thoughtlens.runs.extraction import recorder_for
from thoughtlens.taps import PaddingWatch, Tap

QUESTIONS: Final = (
    "Tom has 5 apples. He buys 3 more. How many apples does he have?",
    "Ann has 2 bags of 4 pens. She finds 3 more. She loses 1. How many pens does she have?",
)
_NEW_TOKENS: Final = 16
_TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference allowed between two ways to the same attention: rounding grows with layers and thoughts."""


@dataclass(frozen=True)
class Check:
    """One check of a model.

    Attributes:
        name: what must hold.
        passed: whether it does.
        measured: the number or fact that decided it, as a sentence.
    """

    name: str
    passed: bool
    measured: str


def doctor(reasoner: LatentReasoner) -> list[Check]:
    """Check that a loaded model, this software and the model's files fit together.

    1. The markers are tokens of their own, which no question contains.  2. The tokenizer has no token beyond them, and
    keeps the text of a question.  3. Attention rows sum to 1.  4. Padding gets none.  5. A problem's attention is the
    same alone and in a batch, and 6. in single steps and in one full pass of transformers' eager attention.  7. A pass
    with a recorder says and thinks what one without it does.

    Args:
        reasoner: the model.

    Returns:
        The seven checks in this order; all are made, whatever an earlier one found.

    Example:
        >>> from thoughtlens.models import load
        >>> all(check.passed for check in doctor(load("tiny-gpt2")))
        True
    """
    tolerance = _TOLERANCE[reasoner.lm.dtype]
    watch = PaddingWatch()
    together, trace = _record(reasoner, QUESTIONS, [watch])
    alone = torch.cat([_record(reasoner, [question])[0] for question in QUESTIONS])
    return [
        _markers(reasoner),
        _tokenizer(reasoner),
        _below("attention rows sum to 1", _row_error(together), 1e-5),
        _below("no attention on padding", watch.worst, 0.0),
        _below("batched = alone", _difference(alone, together), tolerance),
        _below("incremental = one full eager pass", _eager_error(reasoner, together, trace), tolerance),
        _identity(reasoner, trace, tolerance),
    ]


def _below(name: str, error: float, most: float) -> Check:
    return Check(name, error <= most, f"largest difference {error:.1e}, allowed {most:.0e}")


def _record(reasoner: LatentReasoner, questions: Sequence[str], taps: Sequence[Tap] = ()) -> tuple[Tensor, Trace]:
    recorder = recorder_for(reasoner, len(questions), reasoner.n_thoughts)
    trace = reason(reasoner, questions, taps=[recorder, *taps], max_new_tokens=_NEW_TOKENS)
    return recorder.attention, trace


def _markers(reasoner: LatentReasoner) -> Check:
    n_embeddings = reasoner.lm.get_input_embeddings().weight.shape[0]
    ids = (reasoner.prompt(QUESTIONS[0])[-1], *reasoner.closing)
    text = reasoner.question(QUESTIONS[0])
    passed = all(i < n_embeddings and i not in text for i in ids)
    return Check("markers present", passed, f"bot and eot have ids {ids}, of {n_embeddings} embeddings")


def _tokenizer(reasoner: LatentReasoner) -> Check:
    bot = reasoner.prompt(QUESTIONS[0])[-1]
    ids = [i for question in QUESTIONS for i in reasoner.question(question)]
    kept = all(reasoner.decode(reasoner.question(q)).strip().endswith(q) for q in QUESTIONS)
    largest = max(*ids, len(reasoner.tokenizer) - 1)
    # The official code adds one padding token after the vocabulary, just before `bot`.
    return Check("tokenizer fits", largest < bot and kept, f"largest id {largest}, `bot` is {bot}, text kept: {kept}")


def _row_error(attention: Tensor) -> float:
    exists = ~attention.isnan().all(-1)
    if not exists[..., :-1].all():  # only the row of the answer may be missing
        return float("inf")
    error = float((attention.sum(-1)[exists] - 1).abs().max())
    return error if error == error else float("inf")  # NaN is no small difference


def _difference(one: Tensor, other: Tensor) -> float:
    if (one.isnan() != other.isnan()).any() or one[..., :-1, :].isnan().any():
        return float("inf")
    return float((one - other).nan_to_num().abs().max())


@torch.inference_mode()
def _eager_error(reasoner: LatentReasoner, together: Tensor, trace: Trace) -> float:
    """Compare every row up to the last marker with transformers' own eager attention over whole sequences."""
    lm = copy.deepcopy(reasoner.lm)
    lm.set_attn_implementation("eager")
    worst = 0.0
    for row, question in enumerate(QUESTIONS):
        prompt = reasoner.prompt(question)
        sequence = torch.cat([_embed(lm, prompt), trace.thoughts[row], _embed(lm, reasoner.closing)])[None]
        patterns = lm.base_model(inputs_embeds=sequence, use_cache=False, output_attentions=True).attentions
        stacked = torch.stack([pattern[0] for pattern in patterns]).to(together)
        n_question = len(prompt) - 1
        rows = stacked[:, :, n_question:]
        pooled = [rows[..., :1], rows[..., 1:n_question].sum(-1, keepdim=True), rows[..., n_question:]]
        expected = torch.cat(pooled, dim=-1)
        worst = max(worst, _difference(together[row, :, :, : expected.shape[2], : expected.shape[3]], expected))
    return worst


def _embed(lm: torch.nn.Module, ids: Sequence[int]) -> Tensor:
    embed: Callable[[Tensor], Tensor] = lm.get_input_embeddings()  # type: ignore[operator]  # typed as Tensor or Module
    return embed(torch.tensor(list(ids), device=next(lm.parameters()).device))


def _identity(reasoner: LatentReasoner, tapped: Trace, tolerance: float) -> Check:
    """A pass that is watched says and thinks what a pass that is not watched does."""
    plain = reason(reasoner, QUESTIONS, max_new_tokens=_NEW_TOKENS)
    size = plain.states.abs().max()  # states are there even where a model thinks no thoughts
    error = float((plain.states - tapped.states).abs().max() / size)
    same = plain.tokens == tapped.tokens
    measured = f"states differ by {error:.1e} of their size, allowed {tolerance:.0e}; same text: {same}"
    return Check("identity tap changes nothing", same and error <= tolerance, measured)
