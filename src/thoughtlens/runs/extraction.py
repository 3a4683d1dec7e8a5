"""What a run keeps, by name: all attention, or what an analysis adds up of it.

extract(model, problems, "runs/large", keep=MEAN)

Problems of a shard go through the loop in batches and become the shard's patterns and answers, in their own order.

This is the work of an extraction (see `thoughtlens.runs.engines`): the model is loaded once a worker, and the worker
that measures a shard writes it.

Problems go through the loop in batches; shards of attention and answers go to the store.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.sums import block_sums
from thoughtlens.errors import OptionError
from thoughtlens.models.loader import identity, reasoner_of
from thoughtlens.models.reasoner import LatentReasoner, norm_factors
from thoughtlens.names import MAX_THOUGHTS
from thoughtlens.problems import Problem, ProblemSet, same_answer, write_problems
from thoughtlens.reasoning.loop import Trace, reason
from thoughtlens.runs.engines import TOKENS, Engine, Halving, Local, Progress, Work, padding, plan
from thoughtlens.runs.folder import Run, open_run
from thoughtlens.runs.layout import AnyLayout, BlockLayout, Keep, Layout, Seen, problems_for
from thoughtlens.runs.store import Store
from thoughtlens.schema import ATTENTION, ATTENTION_DIMS, VALUE_WEIGHTED, attention_dataset, check_attention
from thoughtlens.taps import AttentionRecorder, ValueRecorder

MEAN: Final = Keep(block_sums)
"""Sums over at most 512 blocks of problems: disk for attention does not grow with the number of problems."""

KEEPS: Final = {"raw": None, "mean": MEAN}


def keep_named(name: str) -> Keep | None:
    """What `--keep` means; None for the attention of every problem.

    Raises:
        OptionError: the name is unknown.
    """
    if name not in KEEPS:
        raise OptionError(f"can't keep {name!r}, expected {' or '.join(KEEPS)}; pass another --keep.")
    return KEEPS[name]


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionJob:
    """The work of an extraction, shard by shard.

    Attributes:
        load: gives the reasoner, once a worker.
        problems: all problems of the run, in order.
        lengths: prompt tokens of each.
        store: where each shard is written.
        batch_size: problems a pass at most.
        keep: what is kept of their attention; attention itself if None.
    """

    load: Callable[[], LatentReasoner]
    problems: Sequence[Problem]
    lengths: Sequence[int]
    store: Store
    batch_size: int
    keep: Keep | None = None

    def n_problems(self, shard: int) -> int:
        """Problems of a shard."""
        return len(self.store.layout.ids_of(shard))

    def start(self) -> Work:
        """Load the model; what is returned does one shard."""
        self.store.check_reachable()
        reasoner, passes = self.load(), Halving(self.batch_size)

        def work(shard: int, progress: Progress) -> None:
            began = time.monotonic()
            places = self.store.layout.problems_of(shard)
            thinking = Thinking(reasoner, [self.problems[place] for place in places], self.store.layout)
            failed = passes.failures
            batches = plan([self.lengths[place] for place in places], self.batch_size)
            dataset, rows = self._taken(shard, thinking, passes.work_off(batches, thinking), progress)
            seconds = time.monotonic() - began
            facts = {"out_of_memory": passes.failures - failed, "batch_size": passes.batch_size}
            self.store.write(shard, dataset, rows, seconds=seconds, facts=facts)
            log.info("extract %d/%d: %d problems, %.0f s", shard + 1, self.store.layout.n_shards, len(rows), seconds)

        return work

    def _taken(
        self, shard: int, thinking: "Thinking", done: "Done", progress: Progress
    ) -> tuple[xr.Dataset, list[dict[str, Any]]]:
        """What the run holds of a shard, and its result rows."""
        layout, keep = self.store.layout, self.keep
        if isinstance(layout, Layout) or keep is None:
            return thinking.gathered(done, progress)
        blocks = layout.blocks_of(shard)
        of_problems = layout.assigned[layout.problems_of(shard)] - blocks.start
        return thinking.added_up(done, progress, lambda seen: keep.add_up(seen, len(blocks)), of_problems)


class _Passed(NamedTuple):
    """What came of one batch: its patterns by the name of their variable, and its trace."""

    patterns: Mapping[str, np.ndarray]
    trace: Trace


Done = Iterable[tuple[Sequence[int], _Passed]]
"""Batches of indices, each with what came of it."""


@dataclass(frozen=True)
class Thinking:
    """Lets a model think about the problems of a shard, a batch of their indices at a time.

    Attributes:
        reasoner: the model.
        problems: of the shard.
        layout: of the run: how many thoughts, and what is recorded.
    """

    reasoner: LatentReasoner
    problems: Sequence[Problem]
    layout: AnyLayout

    def __call__(self, batch: Sequence[int]) -> _Passed:
        """One pass over some problems."""
        names = self.layout.patterns
        factors = norm_factors(self.reasoner.lm) if VALUE_WEIGHTED in names else []
        kept = {name: recorder_for(self.reasoner, len(batch), self.layout.n_thoughts) for name in names}
        taps = [ValueRecorder(rows, factors) if name == VALUE_WEIGHTED else rows for name, rows in kept.items()]
        questions = [self.problems[index].question for index in batch]
        trace = reason(self.reasoner, questions, taps=taps, n_thoughts=self.layout.n_thoughts)
        return _Passed({name: recorder.attention.numpy() for name, recorder in kept.items()}, trace)

    def gathered(self, done: Done, progress: Progress) -> tuple[xr.Dataset, list[dict[str, Any]]]:
        """The attention Dataset and the result rows of the shard, in the order of its problems whatever the batches."""
        # Whole from the start: pieces put together at the end would be held twice.
        whole = recorder_for(self.reasoner, len(self.problems), self.layout.n_thoughts).attention.numpy()
        arrays = {name: whole.copy() if name != ATTENTION else whole for name in self.layout.patterns}
        lengths = np.zeros(len(self.problems), dtype=np.int32)
        rows: list[dict[str, Any]] = [{} for _ in self.problems]
        for batch, passed in done:
            for name, values in passed.patterns.items():
                arrays[name][batch] = values
            lengths[batch] = passed.trace.n_question_tokens
            self._answer(batch, passed, rows)
            progress(len(batch))
        return self._dataset(range(len(self.problems)), arrays, lengths, rows), rows

    def added_up(
        self, done: Done, progress: Progress, add_up: Callable[[Seen], xr.Dataset], blocks: np.ndarray
    ) -> tuple[xr.Dataset, list[dict[str, Any]]]:
        """The sums of the shard, whose attention is never held whole, and its result rows.

        Args:
            done: the batches that have passed.
            progress: called with the number of problems of each.
            add_up: makes the sums.
            blocks: the block of each problem of the shard.
        """
        rows: list[dict[str, Any]] = [{} for _ in self.problems]

        def seen() -> Iterator[tuple[xr.Dataset, np.ndarray]]:
            for batch, passed in done:
                self._answer(batch, passed, rows)
                lengths = np.asarray(passed.trace.n_question_tokens)
                dataset = self._dataset(batch, passed.patterns, lengths, [rows[index] for index in batch])
                yield check_attention(dataset), blocks[list(batch)]
                progress(len(batch))

        return add_up(seen()), rows

    def _answer(self, batch: Sequence[int], passed: _Passed, rows: list[dict[str, Any]]) -> None:
        for index, text, tokens in zip(batch, passed.trace.texts, passed.trace.tokens, strict=True):
            rows[index] = _row(self.reasoner, self.problems[index], text, tokens)

    def _dataset(
        self,
        places: Sequence[int],
        patterns: Mapping[str, np.ndarray],
        lengths: np.ndarray,
        rows: Sequence[Mapping[str, Any]],
    ) -> xr.Dataset:
        """What was seen of some problems of the shard, labelled."""
        dataset = attention_dataset(
            patterns[ATTENTION],
            problem_ids=[self.problems[place].id for place in places],
            correct=np.array([row["correct"] for row in rows]),
            n_question_tokens=lengths,
        )
        beside = {name: (ATTENTION_DIMS, values) for name, values in patterns.items() if name != ATTENTION}
        return dataset.assign(beside)


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


PROBLEMS = "problems.jsonl"


def extract(
    reasoner: LatentReasoner,
    problems: ProblemSet | Sequence[Problem],
    out: str | Path,
    *,
    n_thoughts: int | None = None,
    batch_size: int = 32,
    shard_size: int | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    record: Sequence[str] = (),
    keep: Keep | None = None,
    engine: Engine | None = None,
    progress: Progress = lambda n_problems: None,
) -> Run:
    """Record the attention of every problem in a run folder; go on where an earlier call stopped.

    Args:
        reasoner: the model.
        problems: a problem set, or problems alone.
        out: the run folder, made if it is not there.
        n_thoughts: T, 1 to 32; the number the model was trained with if None.
        batch_size: problems a pass at most; no number depends on it beyond rounding.
        shard_size: problems a shard, the most that a kill can cost; what makes 64 MB of attention if None.
        dtype: of attention on disk; sums are float32.
        record: what to record beside attention: "values", for value-weighted patterns (`value_weighted`).
        keep: what is kept of the problems in the place of their attention (`thoughtlens.runs.extraction.MEAN`), so that
            disk does not grow with their number; all attention if None.
        engine: where the shards are worked on; in this process if None.
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
    if keep is not None and record:
        raise OptionError(f"can't keep means and record {record[0]!r} beside attention; leave --record out, or --keep.")
    lengths = _checked_lengths(reasoner, chosen.problems, count)
    size = problems_for(*_sizes(reasoner, count), dtype, len(record)) if shard_size is None else shard_size
    ids = tuple(problem.id for problem in chosen.problems)
    sizes = Layout(ids, *_sizes(reasoner, count), size, dtype, tuple(sorted(set(record))))
    layout: AnyLayout = sizes if keep is None else BlockLayout.of(sizes, keep, shard_problems=shard_size)
    store = Store.open(out, layout, options=_options(reasoner, chosen, count))
    write_problems(Path(out) / PROBLEMS, chosen.problems)
    missing = store.missing()
    progress(sum(len(store.layout.ids_of(shard)) for shard in range(store.layout.n_shards) if shard not in missing))
    where = engine or Local()
    load = partial(reasoner_of, to_load(reasoner)) if where.elsewhere else (lambda: reasoner)
    where.run(ExtractionJob(load, chosen.problems, lengths, store, batch_size, keep), missing, progress)
    if missing:
        plan_notes = _plan_notes(store, lengths, batch_size)
        store.finish({**_notes(reasoner, chosen, batch_size), **plan_notes, "engine": where.name})
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


def _sizes(reasoner: LatentReasoner, n_thoughts: int) -> tuple[int, int, int]:
    config = reasoner.lm.config
    return config.num_hidden_layers, config.num_attention_heads, n_thoughts


def _plan_notes(store: Store, lengths: Sequence[int], batch_size: int) -> dict[str, Any]:
    """How the problems were batched, as the manifest says it."""
    of_shards = map(store.layout.problems_of, range(store.layout.n_shards))
    shards = [[lengths[place] for place in places] for places in of_shards]
    padded = sum(sum(of_shard) * padding(of_shard, plan(of_shard, batch_size)) for of_shard in shards)
    order = {"order": "longest first in each shard", "batch_size": batch_size, "tokens": TOKENS}
    notes: dict[str, Any] = {"plan": order | {"padding": round(padded / sum(lengths), 4)}}
    markers = store.markers()
    if times := sum(marker["out_of_memory"] for marker in markers):
        notes["out_of_memory"] = {"times": times, "batch_size": min(marker["batch_size"] for marker in markers)}
    return notes


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


def to_load(reasoner: LatentReasoner) -> Mapping[str, Any]:
    """What a worker elsewhere needs to load the same model."""
    return {"options": {"model": identity(reasoner)}, "notes": {"model_source": reasoner.provenance.get("source")}}
