"""Problems go through the loop in batches; shards of attention and answers go to the store."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from thoughtlens.errors import OptionError
from thoughtlens.labels import MAX_THOUGHTS
from thoughtlens.models.base import LatentReasoner
from thoughtlens.problems import Problem, ProblemSet, same_answer, write_problems
from thoughtlens.reasoning import Trace, reason
from thoughtlens.runs.batches import TOKENS, Halving, padding, plan
from thoughtlens.runs.layout import Layout, problems_for
from thoughtlens.runs.reading import Run, open_run
from thoughtlens.runs.store import Store
from thoughtlens.schema import attention_dataset
from thoughtlens.tracing import AttentionRecorder

log = logging.getLogger(__name__)

PROBLEMS = "problems.jsonl"

_IDENTITY = ("name", "revision", "base_revision", "sha256", "lora_alpha", "architecture", "dtype")
"""What of a model's provenance decides its numbers; the device and the file's place do not."""


def extract(
    reasoner: LatentReasoner,
    problems: ProblemSet | Sequence[Problem],
    out: str | Path,
    *,
    n_thoughts: int | None = None,
    batch_size: int = 32,
    shard_size: int | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    progress: Callable[[int], None] = lambda n_problems: None,
) -> Run:
    """Record the attention of every problem in a run folder; go on where an earlier call stopped.

    Args:
        reasoner: the model.
        problems: a problem set, or problems alone.
        out: the run folder, made if it is not there.
        n_thoughts: T, 1 to 32; the number the model was trained with if None.
        batch_size: problems a pass at most; no number depends on it beyond rounding.
        shard_size: problems a shard, the most that a kill can cost; what makes 64 MB of attention if None.
        dtype: of attention on disk.
        progress: called with the number of problems done, also for those found done.

    Returns:
        The complete run.

    Raises:
        OptionError: T or the batch size is out of range, or a question is too long for the model.
        RunError: the folder can't be written, is foreign, or holds a run of other options.
    """
    chosen = problems if isinstance(problems, ProblemSet) else ProblemSet(tuple(problems), "given", None, "given")
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    _check_options(count, batch_size)
    lengths = _checked_lengths(reasoner, chosen.problems, count)
    layout = _layout(reasoner, chosen, count, shard_size, dtype)
    store = Store.open(out, layout, options=_options(reasoner, chosen, count))
    write_problems(Path(out) / PROBLEMS, chosen.problems)
    missing = store.missing()
    progress(sum(len(store.layout.ids_of(shard)) for shard in range(store.layout.n_shards) if shard not in missing))
    passes = Halving(batch_size)
    for shard in missing:
        began = time.monotonic()
        where = store.problems_of(shard)
        of_shard, batches = chosen.problems[where], plan(lengths[where], batch_size)
        dataset, rows = _measure(reasoner, of_shard, count, passes, batches, progress)
        seconds = time.monotonic() - began
        store.write(shard, dataset, rows, seconds=seconds)
        log.info("extract %d/%d: %d problems, %.0f s", shard + 1, store.layout.n_shards, len(of_shard), seconds)
    if missing:
        notes = {"device": str(reasoner.provenance.get("device")), "batch_size": batch_size, "source": chosen.source}
        store.finish(notes | _plan_notes(store, lengths, batch_size, passes))
    else:
        store.finish()
    return open_run(out)


def _check_options(n_thoughts: int, batch_size: int) -> None:
    if not 1 <= n_thoughts <= MAX_THOUGHTS:
        raise OptionError(
            f"the number of thoughts is {n_thoughts}, expected 1 to {MAX_THOUGHTS}; pass another --thoughts."
        )
    if batch_size < 1:
        raise OptionError(f"the batch size is {batch_size}, expected at least 1; pass another --batch-size.")


def _checked_lengths(reasoner: LatentReasoner, problems: Sequence[Problem], n_thoughts: int) -> list[int]:
    """Tokens of each prompt; what would break off the run in its middle is refused before the first pass."""
    positions = int(reasoner.lm.config.max_position_embeddings)
    lengths = [len(reasoner.prompt(problem.question)) for problem in problems]
    for problem, length in zip(problems, lengths, strict=True):
        needed = length + n_thoughts + len(reasoner.closing) + 1
        if needed > positions:
            raise OptionError(
                f"problem {problem.id} needs {needed} positions, but the model has {positions}; leave it out or use a "
                "model with more positions."
            )
    return lengths


def _layout(
    reasoner: LatentReasoner,
    problems: ProblemSet,
    n_thoughts: int,
    shard_size: int | None,
    dtype: Literal["float16", "float32"],
) -> Layout:
    config = reasoner.lm.config
    ids = tuple(problem.id for problem in problems.problems)
    sizes = config.num_hidden_layers, config.num_attention_heads, n_thoughts
    return Layout(ids, *sizes, problems_for(*sizes, dtype) if shard_size is None else shard_size, dtype)


def _plan_notes(store: Store, lengths: Sequence[int], batch_size: int, passes: Halving) -> dict[str, Any]:
    """How the problems were batched, as the manifest says it."""
    shards = [lengths[store.problems_of(shard)] for shard in range(store.layout.n_shards)]
    padded = sum(sum(of_shard) * padding(of_shard, plan(of_shard, batch_size)) for of_shard in shards)
    order = {"order": "longest first in each shard", "batch_size": batch_size, "tokens": TOKENS}
    notes: dict[str, Any] = {"plan": order | {"padding": round(padded / sum(lengths), 4)}}
    if passes.failures:
        notes["out_of_memory"] = {"times": passes.failures, "batch_size": passes.batch_size}
    return notes


def _options(reasoner: LatentReasoner, problems: ProblemSet, n_thoughts: int) -> Mapping[str, Any]:
    return {
        "model": {name: reasoner.provenance.get(name) for name in _IDENTITY},
        "problems": {
            "name": problems.name,
            "split": problems.split,
            "revision": problems.revision,
            "fingerprint": problems.fingerprint,
        },
        "n_thoughts": n_thoughts,
    }


def _measure(
    reasoner: LatentReasoner,
    problems: Sequence[Problem],
    n_thoughts: int,
    passes: Halving,
    batches: Sequence[Sequence[int]],
    progress: Callable[[int], None],
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """The attention Dataset and the rows of a shard, in the order of its problems whatever the batches."""

    def think(batch: Sequence[int]) -> tuple[AttentionRecorder, Trace]:
        recorder = recorder_for(reasoner, len(batch), n_thoughts)
        questions = [problems[index].question for index in batch]
        return recorder, reason(reasoner, questions, taps=[recorder], n_thoughts=n_thoughts)

    attention = recorder_for(reasoner, len(problems), n_thoughts).attention.numpy()
    lengths = np.zeros(len(problems), dtype=np.int32)
    rows: list[dict[str, Any]] = [{} for _ in problems]
    for batch, (recorder, trace) in passes.work_off(batches, think):
        attention[batch], lengths[batch] = recorder.attention.numpy(), trace.n_question_tokens
        for index, text, tokens in zip(batch, trace.texts, trace.tokens, strict=True):
            rows[index] = _row(reasoner, problems[index], text, tokens)
        progress(len(batch))
    dataset = attention_dataset(
        attention,
        problem_ids=[problem.id for problem in problems],
        correct=np.array([row["correct"] for row in rows]),
        n_question_tokens=lengths,
    )
    return dataset, rows


def recorder_for(reasoner: LatentReasoner, n_problems: int, n_thoughts: int) -> AttentionRecorder:
    """A recorder of the model's size."""
    config = reasoner.lm.config
    return AttentionRecorder(
        n_problems=n_problems,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_thoughts=n_thoughts,
        dtype=reasoner.lm.dtype,
    )


def _row(reasoner: LatentReasoner, problem: Problem, text: str, tokens: Sequence[int]) -> dict[str, Any]:
    answer = reasoner.read_answer(text)
    return {
        "id": problem.id,
        "question": problem.question,
        "gold": problem.answer,
        "text": text,
        "answer": answer,
        "correct": same_answer(answer, problem.answer),
        "n_tokens": len(tokens),
    }
