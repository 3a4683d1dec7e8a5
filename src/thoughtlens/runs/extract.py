"""Problems go through the loop in batches; shards of attention and answers go to the store."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from thoughtlens.errors import OptionError
from thoughtlens.labels import MAX_THOUGHTS
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.output_projection import norm_factors
from thoughtlens.models.rerun import identity
from thoughtlens.problems import Problem, ProblemSet, same_answer, write_problems
from thoughtlens.reasoning import reason
from thoughtlens.runs.layout import Layout
from thoughtlens.runs.reading import Run, open_run
from thoughtlens.runs.store import Store
from thoughtlens.schema import ATTENTION, ATTENTION_DIMS, VALUE_WEIGHTED, attention_dataset
from thoughtlens.tracing import AttentionRecorder, ValueRecorder

log = logging.getLogger(__name__)

PROBLEMS = "problems.jsonl"


def extract(
    reasoner: LatentReasoner,
    problems: ProblemSet | Sequence[Problem],
    out: str | Path,
    *,
    n_thoughts: int | None = None,
    batch_size: int = 32,
    shard_size: int = 512,
    dtype: Literal["float16", "float32"] = "float16",
    record: Sequence[str] = (),
    progress: Callable[[int], None] = lambda n_problems: None,
) -> Run:
    """Record the attention of every problem in a run folder; go on where an earlier call stopped.

    Args:
        reasoner: the model.
        problems: a problem set, or problems alone.
        out: the run folder, made if it is not there.
        n_thoughts: T, 1 to 32; the number the model was trained with if None.
        batch_size: problems a pass; no number depends on it beyond rounding.
        shard_size: problems a shard, the most that a kill can cost.
        dtype: of attention on disk.
        record: what to record beside attention: "values", for value-weighted patterns (`value_weighted`).
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
    _check_lengths(reasoner, chosen.problems, count)
    layout = replace(_layout(reasoner, chosen, count), shard_size=shard_size, dtype=dtype, record=_once(record))
    store = Store.open(out, layout, options=_options(reasoner, chosen, count))
    write_problems(Path(out) / PROBLEMS, chosen.problems)
    missing = store.missing()
    progress(sum(len(store.layout.ids_of(shard)) for shard in range(store.layout.n_shards) if shard not in missing))
    for shard in missing:
        began = time.monotonic()
        of_shard = chosen.problems[store.problems_of(shard)]
        dataset, rows = _measure(reasoner, of_shard, layout, batch_size, progress)
        seconds = time.monotonic() - began
        store.write(shard, dataset, rows, seconds=seconds)
        log.info("extract %d/%d: %d problems, %.0f s", shard + 1, store.layout.n_shards, len(of_shard), seconds)
    if missing:
        store.finish(_notes(reasoner, chosen, batch_size))
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


def _check_lengths(reasoner: LatentReasoner, problems: Sequence[Problem], n_thoughts: int) -> None:
    """Refuse before the first pass what would break off the run in its middle."""
    positions = int(reasoner.lm.config.max_position_embeddings)
    for problem in problems:
        needed = len(reasoner.prompt(problem.question)) + n_thoughts + len(reasoner.closing) + 1
        if needed > positions:
            raise OptionError(
                f"problem {problem.id} needs {needed} positions, but the model has {positions}; leave it out or use a "
                "model with more positions."
            )


def _layout(reasoner: LatentReasoner, problems: ProblemSet, n_thoughts: int) -> Layout:
    config = reasoner.lm.config
    ids = tuple(problem.id for problem in problems.problems)
    return Layout(ids, config.num_hidden_layers, config.num_attention_heads, n_thoughts)


def _once(record: Sequence[str]) -> tuple[str, ...]:
    """Each thing to record once, in an order that does not depend on how it was asked for."""
    return tuple(sorted(set(record)))


def _options(reasoner: LatentReasoner, problems: ProblemSet, n_thoughts: int) -> Mapping[str, Any]:
    return {
        "model": identity(reasoner),
        "problems": {
            "name": problems.name,
            "split": problems.split,
            "revision": problems.revision,
            "fingerprint": problems.fingerprint,
        },
        "n_thoughts": n_thoughts,
    }


def _notes(reasoner: LatentReasoner, problems: ProblemSet, batch_size: int) -> Mapping[str, Any]:
    """What does not decide the numbers: where it ran, and where its problems and its model were."""
    return {
        "device": str(reasoner.provenance.get("device")),
        "batch_size": batch_size,
        "source": problems.source,
        "model_source": reasoner.provenance.get("source"),
    }


def _measure(
    reasoner: LatentReasoner,
    problems: Sequence[Problem],
    layout: Layout,
    batch_size: int,
    progress: Callable[[int], None],
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    patterns: dict[str, list[np.ndarray]] = {name: [] for name in layout.patterns}
    factors = norm_factors(reasoner.lm) if VALUE_WEIGHTED in patterns else []
    lengths, results = [], []
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        kept = {name: recorder_for(reasoner, len(batch), layout.n_thoughts) for name in patterns}
        taps = [ValueRecorder(rows, factors) if name == VALUE_WEIGHTED else rows for name, rows in kept.items()]
        questions = [problem.question for problem in batch]
        trace = reason(reasoner, questions, taps=taps, n_thoughts=layout.n_thoughts)
        for name, recorder in kept.items():
            patterns[name].append(recorder.attention.numpy())
        lengths += trace.n_question_tokens
        results += [_row(reasoner, *told) for told in zip(batch, trace.texts, trace.tokens, strict=True)]
        progress(len(batch))
    dataset = attention_dataset(
        np.concatenate(patterns.pop(ATTENTION)),
        problem_ids=[problem.id for problem in problems],
        correct=np.array([row["correct"] for row in results]),
        n_question_tokens=np.array(lengths),
    )
    return dataset.assign({name: (ATTENTION_DIMS, np.concatenate(parts)) for name, parts in patterns.items()}), results


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
