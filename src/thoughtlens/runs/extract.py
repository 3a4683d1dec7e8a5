"""Problems go through the loop in batches; shards of attention and answers go to the store."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from thoughtlens.errors import OptionError
from thoughtlens.labels import MAX_THOUGHTS
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.rerun import identity, reasoner_of
from thoughtlens.problems import Problem, ProblemSet, write_problems
from thoughtlens.runs.batches import TOKENS, padding, plan
from thoughtlens.runs.block_layout import AnyLayout, BlockLayout, Keep
from thoughtlens.runs.engines import Engine, Local, Progress
from thoughtlens.runs.layout import Layout, problems_for
from thoughtlens.runs.measuring import ExtractionJob
from thoughtlens.runs.reading import Run, open_run
from thoughtlens.runs.store import Store

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
        keep: what is kept of the problems in the place of their attention (`thoughtlens.keeping.MEAN`), so that disk
            does not grow with their number; all attention if None.
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
