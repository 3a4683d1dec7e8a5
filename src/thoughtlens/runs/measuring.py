"""Problems of a shard go through the loop in batches and become the shard's patterns and answers, in their own order.

This is the work of an extraction (see `thoughtlens.runs.engines`): the model is loaded once a worker, and the worker
that measures a shard writes it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.output_projection import norm_factors
from thoughtlens.problems import Problem, same_answer
from thoughtlens.reasoning import Trace, reason
from thoughtlens.runs.batches import Halving, plan
from thoughtlens.runs.block_layout import AnyLayout, Keep, Seen
from thoughtlens.runs.engines import Progress, Work
from thoughtlens.runs.layout import Layout
from thoughtlens.runs.store import Store
from thoughtlens.schema import ATTENTION, ATTENTION_DIMS, VALUE_WEIGHTED, attention_dataset, check_attention
from thoughtlens.tracing import AttentionRecorder, ValueRecorder

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
