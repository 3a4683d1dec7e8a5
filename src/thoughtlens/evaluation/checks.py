"""What a loaded model is, and checks of it against passes that share only the weights with the thinking loop.

in: a reasoner; out: the facts that `described` gives, and on two short problems a `Check` each of markers, tokenizer,
attention rows, padding, batching, incremental passes, taps.
A model that fails a check should not be studied: its numbers would be about the software and not about the model.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.notation import ANSWER, BOT, EOT, FIRST, QUESTION, key_names, query_names, thought_names
from thoughtlens.reasoning.loop import Trace, reason, recorder_for
from thoughtlens.taps import PaddingWatch, Tap

QUESTIONS: Final = (
    "Tom has 5 apples. He buys 3 more. How many apples does he have?",
    "Ann has 2 bags of 4 pens. She finds 3 more. She loses 1. How many pens does she have?",
)
_NEW_TOKENS: Final = 16
_TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference allowed between two ways to the same attention: rounding grows with layers and thoughts."""

_TIMES: Final = 2
"""Two ways may differ by so many times what the precision moves: each by as much, in opposite directions."""


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


def described(reasoner: LatentReasoner) -> dict[str, str]:
    """What a loaded model is, and where what its weights do not say was taken from.

    Args:
        reasoner: the model.

    Returns:
        Short texts by what they are about, in the order in which they are shown.

    Example:
        >>> from thoughtlens.models import load
        >>> described(load("tiny-gpt2"))["thoughts"]
        '6 (folder)'
    """
    known, sizes = reasoner.provenance, reasoner.lm.config
    settings = known.get("settings") or {}
    told = {name: f"{json.dumps(fact['value'])} ({fact['from']})" for name, fact in settings.items()}
    closing = list(reasoner.closing)
    facts = {
        "family": f"{known.get('family') or 'unknown'}, layout {known.get('layout') or 'of its own'}",
        "base": f"{known.get('architecture')}, {sizes.num_hidden_layers} layers of {sizes.num_attention_heads} heads",
        "weights": str(known.get("weights") or known.get("name")),
        "left out": ", ".join(f"{n} {name}" for name, n in sorted((known.get("left_out") or {}).items())),
        "output layer": _tied(known.get("tied_again")),
        "mode": (known.get("wording") or {}).get("mode", "latent"),
        "thoughts": told.get("n_thoughts", str(reasoner.n_thoughts)),
        "lora_alpha": told.get("lora_alpha", ""),
        "feedback": _feedback(reasoner),
        "markers": f"opening {list(reasoner.opening)}, closing {closing}, padding {reasoner.padding}",
        "prompt": _prompt(reasoner) + _said(told.get("remove_eos"), "remove_eos"),
        "answer": f"after {reasoner.answer_prefix!r}" if reasoner.answer_prefix else "the value at once",
        "slots": ", ".join(sorted(reasoner.slots)) or "none beside the thoughts",
        "precision": f"{known.get('dtype')} on {known.get('device')}",
    }
    return {name: said for name, said in facts.items() if said}


def _prompt(reasoner: LatentReasoner) -> str:
    if hasattr(reasoner, "examples"):
        return f"as {_questions(reasoner)[0]!r}"
    return f"question, then {reasoner.tokenizer.decode(reasoner.prompt('…'))!r}"


def _tied(apart: float | None) -> str:
    if apart is None:
        return ""
    return f"tied to the embedding again, as officially; the markers' rows differed by {apart:.2g}"


def _feedback(reasoner: LatentReasoner) -> str:
    """What is fed back, from the module that does it."""
    module = getattr(reasoner, "projection", None)
    named = dict(module.named_modules()) if isinstance(module, torch.nn.Module) else {}
    if "1" in named:
        norm = "with" if "ln" in named else "without"
        return f"projection {named['1'].in_features} to {named['1'].out_features}, {norm} layer norm"
    kinds = {"Pause": "one learned vector", "Identity": "the last hidden state as it is"}
    return kinds.get(type(module).__name__, type(module).__name__)


def _said(fact: str | None, name: str) -> str:
    return "" if fact is None else f"; {name} {fact}"


def doctor(reasoner: LatentReasoner, precision: Mapping[str, Any] | None = None) -> list[Check]:
    """Check that a loaded model, this software and the model's files fit together.

    1. The markers are tokens of their own, which no question contains.  2. The tokenizer has no token beyond them, and
    keeps the text of a question.  3. Attention rows sum to 1.  4. Padding gets none.  5. A problem's attention is the
    same alone and in a batch, and 6. in single steps and in one full pass of transformers' eager attention.  7. A pass
    with a recorder says and thinks what one without it does.

    In half precision 5. to 7. allow in each row for twice what it is known to move against float32; where that is not
    known, only the rows up to z1 are compared, into which no rounding has been fed back. Texts may then differ.

    Args:
        reasoner: the model.
        precision: how far its precision moves numbers, as the manifest of a run in half precision says it.

    Returns:
        The seven checks in this order; all are made, whatever an earlier one found.

    Example:
        >>> from thoughtlens.models import load
        >>> all(check.passed for check in doctor(load("tiny-gpt2")))
        True
    """
    allowed, questions = _allowed(reasoner, precision), _questions(reasoner)
    watch = PaddingWatch()
    together, trace = _record(reasoner, questions, [watch])
    alone = torch.cat([_record(reasoner, [question])[0] for question in questions])
    return [
        _markers(reasoner),
        _tokenizer(reasoner),
        _below("attention rows sum to 1", _row_error(together, _rows(reasoner)), 1e-5),
        _below("no attention on padding", watch.worst, 0.0),
        _alike("batched = alone", _difference(alone, together, _rows(reasoner), _is_half(reasoner)), allowed),
        _alike("incremental = one full eager pass", _eager_error(reasoner, together, trace), allowed),
        _identity(reasoner, trace, precision),
    ]


def _questions(reasoner: LatentReasoner) -> Sequence[str]:
    """Two short questions: stories, or what a model that reads no words has as its examples."""
    examples: Sequence[str] = getattr(reasoner, "examples", QUESTIONS)
    return examples


def _is_half(reasoner: LatentReasoner) -> bool:
    return reasoner.lm.dtype in (torch.bfloat16, torch.float16)


def _allowed(reasoner: LatentReasoner, precision: Mapping[str, Any] | None) -> Tensor:
    """The largest difference allowed in each row (query,)."""
    names, tolerance = query_names(reasoner.n_thoughts), _TOLERANCE[reasoner.lm.dtype]
    if not _is_half(reasoner):
        return torch.full((len(names),), tolerance)
    moved = ((precision or {}).get("float32") or {}).get("attention", {})
    unknown = [0.0, 0.0, *[float("inf")] * len(names)]
    known = [moved.get(name, beyond) for name, beyond in zip(names, unknown, strict=False)]
    return torch.tensor([tolerance + _TIMES * grown for grown in known])


def _alike(name: str, differences: Tensor, allowed: Tensor) -> Check:
    """Whether no row differs by more than is allowed; the row that comes nearest to it is said."""
    at = int((differences / allowed).nan_to_num(0.0).argmax())
    return _below(name, float(differences[at]), float(allowed[at]))


def _below(name: str, error: float, most: float) -> Check:
    return Check(name, error <= most, f"largest difference {error:.1e}, allowed {most:.0e}")


def _record(reasoner: LatentReasoner, questions: Sequence[str], taps: Sequence[Tap] = ()) -> tuple[Tensor, Trace]:
    recorder = recorder_for(reasoner, len(questions), reasoner.n_thoughts)
    trace = reason(reasoner, questions, taps=[recorder, *taps], max_new_tokens=_NEW_TOKENS)
    return recorder.attention, trace


def _markers(reasoner: LatentReasoner) -> Check:
    n_embeddings = reasoner.lm.get_input_embeddings().weight.shape[0]
    ids = (*reasoner.opening, *reasoner.closing)
    # The end token may stand before `bot` and after `eot`.
    text = set(reasoner.question(_questions(reasoner)[0])) - {reasoner.tokenizer.eos_token_id}
    passed = all(i < n_embeddings and i not in text for i in ids)
    return Check("markers present", passed, f"bot and eot have ids {ids}, of {n_embeddings} embeddings")


def _tokenizer(reasoner: LatentReasoner) -> Check:
    ends = [i for i in (*reasoner.opening, *reasoner.closing) if i != reasoner.tokenizer.eos_token_id]
    n_embeddings = reasoner.lm.get_input_embeddings().weight.shape[0]
    ids = [i for question in _questions(reasoner) for i in reasoner.question(question)]
    unknown = reasoner.tokenizer.unk_token_id
    symbols = unknown is not None and (unknown in ids or hasattr(reasoner, "examples"))
    kept = symbols or all(q in reasoner.decode(reasoner.question(q)) for q in _questions(reasoner))
    known = reasoner.tokenizer.get_vocab().values()
    largest = max(*ids, *(i for i in known if i not in ends))
    # The official code adds one padding token after the vocabulary, just before `bot`.
    fits = largest < (min(ends) if ends else n_embeddings) or (symbols and largest < n_embeddings)
    return Check("tokenizer fits", fits and kept, f"largest id {largest}, markers {ends}, text kept: {kept}")


def _met(reasoner: LatentReasoner) -> list[str]:
    """The slot of each position from the opening to the closing, in order."""
    closing = [EOT if EOT in reasoner.slots else ANSWER] * len(reasoner.closing)
    return [*[BOT] * len(reasoner.opening), *thought_names(reasoner.n_thoughts), *closing]


def _rows(reasoner: LatentReasoner) -> list[int]:
    """Rows that must be there; that of the answer may be missing where it is in the text."""
    met = set(_met(reasoner))
    return [place for place, name in enumerate(query_names(reasoner.n_thoughts)) if name in met]


def _row_error(attention: Tensor, rows: Sequence[int]) -> float:
    exists = ~attention.isnan().all(-1)
    if not exists[..., rows].all():
        return float("inf")
    error = float((attention.sum(-1)[exists] - 1).abs().max()) if exists.any() else 0.0
    return error if error == error else float("inf")  # NaN is no small difference


def _difference(one: Tensor, other: Tensor, rows: Sequence[int], half: bool = False) -> Tensor:
    """The largest difference in each row (query,), infinite in all where a row is missing.

    In half precision a text may reach its answer on one side alone, so that only `rows`, which must be there, count.
    """
    if half:
        one, other = (side.clone() for side in (one, other))
        others = [row for row in range(one.shape[-2]) if row not in rows]
        one[..., others, :] = other[..., others, :] = torch.nan
    if (one.isnan() != other.isnan()).any() or one[..., rows, :].isnan().any():
        return torch.full(one.shape[-2:-1], torch.inf)
    return (one - other).nan_to_num().abs().flatten(0, -3).amax((0, 2))


@torch.inference_mode()
def _eager_error(reasoner: LatentReasoner, together: Tensor, trace: Trace) -> Tensor:
    """Compare every row up to the last marker with transformers' own eager attention over whole sequences."""
    lm = copy.deepcopy(reasoner.lm)
    lm.set_attn_implementation("eager")
    met, keys = _met(reasoner), key_names(reasoner.n_thoughts)
    worst = together.new_zeros(together.shape[-2])
    for row, question in enumerate(_questions(reasoner)):
        prompt = reasoner.prompt(question)
        sequence = torch.cat([_embed(lm, prompt), trace.thoughts[row], _embed(lm, reasoner.closing)])[None]
        patterns = lm.base_model(inputs_embeds=sequence, use_cache=False, output_attentions=True).attentions
        stacked = torch.stack([pattern[0] for pattern in patterns]).to(together)
        names = [FIRST, *[QUESTION] * (len(prompt) - len(reasoner.opening) - 1), *met]
        in_slot = torch.tensor([[name == key for key in keys] for name in names]).to(stacked)
        # Of several rows of a slot the last one is kept.
        last = {name: place for place, name in enumerate(names) if name in met}
        rows = _rows(reasoner)
        places = [last[query_names(reasoner.n_thoughts)[at]] for at in rows]
        if places:
            apart = _difference(together[row][:, :, rows], (stacked @ in_slot)[:, :, places], ())
            worst[rows] = torch.maximum(worst[rows], apart)
    return worst


def _embed(lm: torch.nn.Module, ids: Sequence[int]) -> Tensor:
    embed: Callable[[Tensor], Tensor] = lm.get_input_embeddings()  # type: ignore[operator]  # typed as Tensor or Module
    return embed(torch.tensor(list(ids), dtype=torch.long, device=next(lm.parameters()).device))


def _identity(reasoner: LatentReasoner, tapped: Trace, precision: Mapping[str, Any] | None) -> Check:
    """A pass that is watched says and thinks what a pass that is not watched does."""
    plain = reason(reasoner, _questions(reasoner), max_new_tokens=_NEW_TOKENS)
    half, most = _is_half(reasoner), _TOLERANCE[reasoner.lm.dtype]
    moved = [*((precision or {}).get("float32") or {}).get("thoughts", {}).values()]
    # Of half precision that was not compared with float32, only the first state, before anything is fed back.
    seen = slice(None) if moved or not half else slice(1)
    most += _TIMES * max(moved, default=0.0) * half
    size = plain.states[:, seen].abs().max()  # states are there even where a model thinks no thoughts
    error = float((plain.states - tapped.states)[:, seen].abs().max() / size)
    same = plain.tokens == tapped.tokens
    measured = f"states differ by {error:.1e} of their size, allowed {most:.0e}; same text: {same}"
    return Check("identity tap changes nothing", (same or half) and error <= most, measured)
