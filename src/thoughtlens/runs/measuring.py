"""Problems of a shard go through the loop in batches and become the shard's patterns and answers, in their own order.

This is the work of an extraction (see `thoughtlens.runs.engines`): the model is loaded once a worker, and the worker
that measures a shard writes it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.output_projection import norm_factors
from thoughtlens.problems import Problem, same_answer
from thoughtlens.reasoning import Trace, reason
from thoughtlens.runs.batches import Halving, plan
from thoughtlens.runs.engines import Progress, Work
from thoughtlens.runs.layout import Layout
from thoughtlens.runs.store import Store
from thoughtlens.schema import ATTENTION, ATTENTION_DIMS, VALUE_WEIGHTED, attention_dataset
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
    """

    load: Callable[[], LatentReasoner]
    problems: Sequence[Problem]
    lengths: Sequence[int]
    store: Store
    batch_size: int

    def n_problems(self, shard: int) -> int:
        """Problems of a shard."""
        return len(self.store.layout.ids_of(shard))

    def start(self) -> Work:
        """Load the model; what is returned does one shard."""
        self.store.check_reachable()
        reasoner, passes = self.load(), Halving(self.batch_size)

        def work(shard: int, progress: Progress) -> None:
            began = time.monotonic()
            where = self.store.problems_of(shard)
            thinking = Thinking(reasoner, self.problems[where], self.store.layout)
            failed = passes.failures
            done = passes.work_off(plan(self.lengths[where], self.batch_size), thinking)
            dataset, rows = thinking.gathered(done, progress)
            seconds = time.monotonic() - began
            facts = {"out_of_memory": passes.failures - failed, "batch_size": passes.batch_size}
            self.store.write(shard, dataset, rows, seconds=seconds, facts=facts)
            log.info("extract %d/%d: %d problems, %.0f s", shard + 1, self.store.layout.n_shards, len(rows), seconds)

        return work


class _Passed(NamedTuple):
    """What came of one batch: its patterns by the name of their variable, and its trace."""

    patterns: Mapping[str, np.ndarray]
    trace: Trace


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
    layout: Layout

    def __call__(self, batch: Sequence[int]) -> _Passed:
        """One pass over some problems."""
        names = self.layout.patterns
        factors = norm_factors(self.reasoner.lm) if VALUE_WEIGHTED in names else []
        kept = {name: recorder_for(self.reasoner, len(batch), self.layout.n_thoughts) for name in names}
        taps = [ValueRecorder(rows, factors) if name == VALUE_WEIGHTED else rows for name, rows in kept.items()]
        questions = [self.problems[index].question for index in batch]
        trace = reason(self.reasoner, questions, taps=taps, n_thoughts=self.layout.n_thoughts)
        return _Passed({name: recorder.attention.numpy() for name, recorder in kept.items()}, trace)

    def gathered(
        self, done: Iterable[tuple[Sequence[int], _Passed]], progress: Progress
    ) -> tuple[xr.Dataset, list[dict[str, Any]]]:
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
            for index, text, tokens in zip(batch, passed.trace.texts, passed.trace.tokens, strict=True):
                rows[index] = _row(self.reasoner, self.problems[index], text, tokens)
            progress(len(batch))
        dataset = attention_dataset(
            arrays.pop(ATTENTION),
            problem_ids=[problem.id for problem in self.problems],
            correct=np.array([row["correct"] for row in rows]),
            n_question_tokens=lengths,
        )
        return dataset.assign({name: (ATTENTION_DIMS, values) for name, values in arrays.items()}), rows


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
