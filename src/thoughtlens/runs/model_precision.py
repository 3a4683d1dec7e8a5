"""The precision in which a model computes: how far it moves attention and thoughts, and what `auto` settles on.

in: a reasoner, and token ids of questions; out: the reasoner in the precision that is settled on, and what the manifest
keeps as `precision` (None in float32 and float64):

    dtype     the precision that the run was to have: bfloat16, float16 or tf32
    n         how many problems were measured
    batches   how far they move between batches of one and of all of them: `attention`, the largest absolute difference
              of a cell in the row of each query; `thoughts`, the largest ‖Δ‖ / ‖z‖; `largest` of the cells
    float32   the same against the model loaded again in float32; None if that was not measured
    left_out  why it was not; "" if it was
    chosen    what `auto` settled on and why; "" where a precision was asked for
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from thoughtlens.analysis.cautions import MOST_MOVED
from thoughtlens.errors import CheckpointError
from thoughtlens.files import Json
from thoughtlens.models.catalog import AUTO, TF32
from thoughtlens.models.checkpoint_files import free_memory
from thoughtlens.models.loader import identity, reasoner_of
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.notation import ANSWER, query_names, thought_names
from thoughtlens.reasoning.loop import reason, recorder_for

MEASURED: Final = 8
"""Problems on which precision is measured."""

FLOAT32: Final = "float32"


def is_exact(reasoner: LatentReasoner) -> bool:
    """Whether a reasoner computes in float32 or float64, whose rounding no thought makes visible."""
    return reasoner.provenance.get("dtype") != TF32 and reasoner.lm.dtype not in (torch.bfloat16, torch.float16)


def settled(
    reasoner: LatentReasoner, prompts: Sequence[Sequence[int]], n_thoughts: int, found: Mapping[str, Any] | None = None
) -> tuple[LatentReasoner, Json | None]:
    """The reasoner in the precision of the run, and how far that moves numbers; None in float32 and float64.

    `found` is the manifest of a run that has been begun, which says both already.
    """
    own, asked = str(reasoner.provenance.get("dtype")), reasoner.provenance.get("asked_dtype")
    if found:
        there = found["options"]["model"].get("dtype")
        of_run = _as(reasoner, there) if asked == AUTO and there not in (None, own) else reasoner
        return of_run, found.get("precision")
    if is_exact(reasoner):
        return reasoner, None
    n = min(MEASURED, len(prompts))
    some = [prompts[place * len(prompts) // n] for place in range(n)]
    together = _passed(reasoner, some, n_thoughts)
    batches = _moved(_passed(reasoner, some, n_thoughts, size=1), together, n_thoughts)
    needed, free = _bytes(reasoner), free_memory(reasoner.lm.device)
    wide, against, left_out = None, None, ""
    if needed <= free:
        wide = _as(reasoner, FLOAT32)
        against = _moved(together, _passed(wide, some, n_thoughts), n_thoughts)
    else:
        left_out = f"float32 needs {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} are free"
    facts = {"dtype": own, "n": n, "batches": batches, "float32": against, "left_out": left_out, "chosen": ""}
    largest = max(moved["largest"] for moved in (batches, against) if moved)
    if asked != AUTO:
        return reasoner, facts
    if largest <= MOST_MOVED:
        return reasoner, facts | {"chosen": f"{own}, which moves a cell by {largest:.2g}, at most {MOST_MOVED}"}
    why = f"since {own} moves a cell by {largest:.2g}, more than {MOST_MOVED}"
    if wide is None and needed <= free + _bytes(reasoner, reasoner.lm.dtype):
        reasoner.lm.to("cpu")  # both have no room beside each other
        wide = _as(reasoner, FLOAT32)
    if wide is None:
        return reasoner, facts | {"chosen": f"{own}, although it moves a cell by {largest:.2g}: {left_out}"}
    return wide, facts | {"chosen": f"{FLOAT32}, {why}"}


@contextmanager
def arithmetic(reasoner: LatentReasoner) -> Iterator[None]:
    """Multiply matrices in TF32 meanwhile, if that is the reasoner's precision, and only then."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = reasoner.provenance.get("dtype") == TF32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _as(reasoner: LatentReasoner, dtype: str) -> LatentReasoner:
    """The same model in another precision, loaded again where it is known from where, else converted."""
    known, made_with = reasoner.provenance, identity(reasoner) | {"dtype": dtype}
    manifest = {"options": {"model": made_with}, "notes": {"model_source": known.get("source")}}
    try:
        again: LatentReasoner = reasoner_of(manifest, device=known.get("device"), answer_rule=reasoner.answer_rule.name)
    except CheckpointError:
        kind = torch.float32 if dtype == FLOAT32 else getattr(torch, dtype)
        parts = {name: copy.deepcopy(getattr(reasoner, name)).to(kind) for name in ("lm", "projection")}
        again = replace(reasoner, **parts, provenance={**known, "dtype": dtype})  # type: ignore[type-var]
    return again


def _bytes(reasoner: LatentReasoner, dtype: torch.dtype = torch.float32) -> int:
    """What the weights take in a precision."""
    return int(dtype.itemsize) * sum(int(weights.numel()) for weights in reasoner.lm.parameters())


Pass = tuple[Tensor, Tensor]
"""Attention (problem, layer, head, query, key) and thoughts (problem, thought, hidden), in float32."""


def _passed(reasoner: LatentReasoner, prompts: Sequence[Sequence[int]], n_thoughts: int, size: int = MEASURED) -> Pass:
    """What a model attends to and thinks about questions, in batches of a size."""
    parts = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        recorder = recorder_for(reasoner, len(batch), n_thoughts)
        with arithmetic(reasoner):
            trace = reason(reasoner, batch, taps=[recorder], n_thoughts=n_thoughts, max_new_tokens=1)
        parts.append((recorder.attention.float(), trace.thoughts.float().cpu()))
    attention, thoughts = zip(*parts, strict=True)
    return torch.cat(attention), torch.cat(thoughts)


def _moved(one: Pass, other: Pass, n_thoughts: int) -> Json:
    """How far two passes over the same problems are apart, by query and by thought."""
    names = query_names(n_thoughts)
    there = [place for place, name in enumerate(names) if name != ANSWER and not other[0][..., place, :].isnan().all()]
    # Of numbers that are none, nothing is left.
    cells = (one[0] - other[0]).abs().nan_to_num(nan=1.0).amax((0, 1, 2, 4))
    apart = ((one[1] - other[1]).norm(dim=-1) / other[1].norm(dim=-1)).nan_to_num(nan=1.0, posinf=1.0).amax(0)
    return {
        "attention": {names[place]: _short(cells[place]) for place in there},
        "thoughts": dict(zip(thought_names(n_thoughts), map(_short, apart), strict=True)),
        "largest": max((_short(cells[place]) for place in there), default=0.0),
    }


def _short(number: Tensor) -> float:
    return float(f"{float(number):.3g}")
