"""The sides of a comparison: each model read once, on the problems that all share; and notes on what is not compared.

In: runs, or `Subject`s, by name. Out: a `Side` for each, and sentences. Sums by depth are kept for each problem, sums
by head only for the resamples, so that memory grows by a few numbers a problem.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.archive import saved_part
from thoughtlens.analysis.attention_evidence import find_types
from thoughtlens.analysis.attention_measures import bare_preferences, concatenated, preference_sums
from thoughtlens.analysis.comparison_statistics import (
    DEPTHS,
    Ratios,
    as_ratios,
    depth_sums,
    join_problems,
    layers_by_depth,
)
from thoughtlens.analysis.heads import with_importance
from thoughtlens.analysis.intervals import CHUNK_CELLS, resample_weights
from thoughtlens.analysis.resampled_sums import add_weighted, bare
from thoughtlens.analysis.streamed_attention import WEIGHTS, Blocks, StoredRun, in_pieces
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json
from thoughtlens.schema import tested_half

PROFILES = ("importance", "sequential", "skip", "thought_mass")
"""What heads are ranked by."""


@final
@dataclass(frozen=True)
class Subject:
    """A model on its problems, as a comparison needs it.

    Attributes:
        blocks: an attention Dataset, or its problems block by block, read once.
        problems: a name for each problem, in the order of the blocks; the same in two subjects if it is one problem.
        correct: bool, one a problem.
        n_question_tokens: prompt tokens before `bot`, one a problem, if known.
        head_types: the type of each head, dims (layer, head), if known.
        ids: of the problems, by which some may be held out; if None, their names are.
        problem_set: the name of the set that they are of, if known.
    """

    blocks: Blocks
    problems: Sequence[str]
    correct: npt.ArrayLike
    n_question_tokens: npt.ArrayLike | None = None
    head_types: xr.DataArray | None = None
    ids: Sequence[str] | None = None
    problem_set: str = ""


class ComparableRun(StoredRun, Protocol):
    """A run that holds the attention of every problem."""

    @property
    def attention(self) -> xr.Dataset:
        """The attention Dataset, with `correct` and `n_question_tokens` of each problem."""


class Side(NamedTuple):
    """What was read of a model, or of a group of its problems."""

    ratios: Ratios
    """of the problems compared; of models in one order for all"""
    profiles: xr.Dataset
    """`PROFILES` of each head, dims (resample, layer, head); empty for a group"""
    n_thoughts: int

    @property
    def n(self) -> int:
        """Problems compared."""
        return self.ratios.above.sizes["problem"]

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.profiles.sizes["layer"], self.profiles.sizes["head"]


def subject_of(run: ComparableRun) -> Subject:
    """A run as a subject. A problem is known by its id and its question: `test_0` of two sets is not one problem."""
    attention, problems = run.attention, list(run.problems())
    return Subject(
        run.blocks(),
        [f"{problem.id}: {problem.question}" for problem in problems],
        attention["correct"].values,
        attention["n_question_tokens"].values,
        ids=[str(problem.id) for problem in problems],
        problem_set=str(run.manifest["options"]["problems"].get("name", "")),
    )


def common_problems(subjects: Mapping[str, Subject]) -> list[str]:
    """The problems that all subjects have, in the order of the first; none if there are fewer than two."""
    shared = set.intersection(*(set(subject.problems) for subject in subjects.values()))
    first = next(iter(subjects.values()))
    return [problem for problem in first.problems if problem in shared] if len(shared) > 1 else []


def halves(subject: Subject, common: Sequence[str], share: float | None, seed: int) -> tuple[list[str], list[str]]:
    """The problems of a subject that are compared, those in common if there are any, and those that give its types.

    Both are all of them without a held-out share; `OptionError` where one of the halves has fewer than two.
    """
    problems = list(common or subject.problems)
    if share is None:
        return problems, problems
    ids = dict(zip(subject.problems, subject.ids or subject.problems, strict=True))
    tested = tested_half([ids[problem] for problem in problems], share, seed)
    compared = [problem for problem, here in zip(problems, tested, strict=True) if here]
    choosing = [problem for problem, here in zip(problems, tested, strict=True) if not here]
    if min(len(compared), len(choosing)) < 2:
        raise OptionError(
            f"--holdout {share:g} leaves {len(compared)} of {len(problems)} problems to be compared and "
            f"{len(choosing)} to choose, expected two or more of each; take more problems, or leave it out."
        )
    return compared, choosing


def held_out_note(chosen: Mapping[str, tuple[list[str], list[str]]], share: float, seed: int) -> str:
    """Which problems are compared and which give the types of heads, in a sentence."""
    each = "; ".join(f"{name}: {len(compared)} and {len(others)}" for name, (compared, others) in chosen.items())
    return (
        f"Held out ({share:g}, seed {seed}): numbers, intervals and p are of the tested problems, and types of heads "
        f"of the others ({each})."
    )


def head_types_of(run: ComparableRun, subject: Subject, problems: Sequence[str], seed: int) -> xr.DataArray:
    """The types of a run's heads as `analyze` finds them, on these problems; as it saved them, if on all."""
    these = set(problems)
    chosen = np.array([problem in these for problem in subject.problems])
    as_found: Json = {"pattern": WEIGHTS, "holdout": None, "seed": seed}
    if chosen.all() and (saved := saved_part(run, "evidence", as_found)) is not None:
        return saved["type"]
    return find_types(run.blocks(chosen=chosen), n_problems=int(chosen.sum()), seed=seed)


def read_subject(subject: Subject, chosen: Sequence[str], *, n_resamples: int, seed: int) -> Side:
    """What is compared of a subject: the chosen problems in their order, with resamples of these."""
    weights = resample_weights(len(chosen), n_resamples=n_resamples, seed=seed).variable
    place = {name: number for number, name in enumerate(chosen)}
    places = np.array([place.get(problem, -1) for problem in subject.problems], dtype=np.int64)
    heads: dict[str, xr.Variable] = {}
    parts: list[xr.Dataset] = []
    n_seen = 0
    for attention in (piece["attention"] for piece in in_pieces(subject.blocks)):
        here = places[n_seen : n_seen + attention.sizes["problem"]]
        n_seen += attention.sizes["problem"]
        _check_number(n_seen <= len(places), subject, f"{n_seen} or more")
        kept = attention.isel(problem=np.flatnonzero(here >= 0))
        sums = preference_sums(kept)
        add_weighted(heads, bare(sums), weights[:, here[here >= 0]])
        parts.append(depth_sums(kept, sums).assign_coords(problem=here[here >= 0]))
    _check_number(n_seen == len(places) == np.size(subject.correct), subject, str(n_seen))
    correct = np.asarray(subject.correct, dtype=bool)[np.argsort(places)[(places < 0).sum() :]]
    joined = join_problems(parts)
    sums = joined.isel(problem=np.argsort(joined["problem"].values))
    return Side(as_ratios(sums, correct), _profiles(heads), sums.sizes["query"])


def _check_number(right: bool, subject: Subject, n_seen: str) -> None:
    if not right:
        raise RunError(
            f"found attention of {n_seen} problems, names of {len(subject.problems)} and answers of "
            f"{np.size(subject.correct)}, expected one number; extract again."
        )


def _profiles(sums: Mapping[str, xr.Variable]) -> xr.Dataset:
    # A few layers at a time: the resampled preferences of all heads at once would be as large as the sums.
    n_layers = sums["mass"].sizes["layer"]
    step = max(1, CHUNK_CELLS * n_layers // sum(of.size for of in sums.values()))
    layers = (slice(start, start + step) for start in range(0, n_layers, step))
    some = [
        with_importance(bare_preferences({name: of.isel(layer=part) for name, of in sums.items()})) for part in layers
    ]
    return xr.Dataset({name: concatenated((of[name] for of in some), "layer") for name in PROFILES})


CORRECTIONS = (
    "p is of one number. p (Holm) holds for all differences shown together, over all layers and every pair, the "
    "preferences for all thoughts among them; p_bh of the CSV tables is the false discovery rate (Benjamini and "
    "Hochberg) over all differences of the table."
)

ENOUGH_SEEDS = 3
"""Models on either side of a comparison of recipes; with fewer, a claim is about these weights."""

THESE_WEIGHTS = (
    "Each side is one model: differences hold for these weights, and not for the recipes that made them. Other seeds "
    "may turn their signs; compare several seeds a recipe with --group."
)

UNTESTED_TYPES = (
    "Types of heads are named by what passes its test in each by itself: more problems name more heads, and no test "
    "compares the counts."
)


def notes_on(subjects: Mapping[str, Subject], seen: Mapping[str, Side], common: list[str]) -> tuple[str, ...]:
    """What was compared, how, and what was left out, in sentences; `common` is empty if compared unpaired."""
    return (
        _problems(subjects, common),
        *_thoughts_and_tokens(subjects, seen, common),
        *_shapes(seen),
        *_depths(seen),
        THESE_WEIGHTS,
        *([UNTESTED_TYPES] if all(subject.head_types is not None for subject in subjects.values()) else []),
        CORRECTIONS,
    )


def _problems(subjects: Mapping[str, Subject], common: list[str]) -> str:
    sizes = {name: len(subject.problems) for name, subject in subjects.items()}
    if not common:
        each = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        return (
            f"The models have fewer than two problems in common ({each}): differences are unpaired, between different "
            "problems, and may come from these rather than from the models."
        )
    if set(sizes.values()) == {len(common)}:
        return f"All have the same {len(common)} problems: differences are paired."
    each = ", ".join(f"{size} of {name}" for name, size in sizes.items())
    return f"Only the {len(common)} problems that all have are compared, of {each}; differences are paired."


def _thoughts_and_tokens(subjects: Mapping[str, Subject], seen: Mapping[str, Side], common: list[str]) -> list[str]:
    notes, counts = [], {name: model.n_thoughts for name, model in seen.items()}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in counts.items())
        notes.append(
            f"The numbers of thoughts differ ({each}): between such models preference by thought and skip are not "
            "compared, and lags only as far as both have them; with more thoughts to look at, more mass on thoughts is "
            "to be expected."
        )
    (first, base), *others = subjects.items()
    if cut := [name for name, subject in others if _tokens_differ(subject, base, common)]:
        notes.append(
            f"{_listed(cut)} cut{'s' if len(cut) == 1 else ''} questions into other numbers of tokens than {first} "
            "(another tokenizer or prompt): what looks at the question looks at other keys."
        )
    return notes


def _tokens_differ(one: Subject, other: Subject, common: list[str]) -> bool:
    """Whether a common problem's question has other numbers of tokens, where both know them."""
    if one.n_question_tokens is None or other.n_question_tokens is None:
        return False
    first, second = (dict(zip(of.problems, np.asarray(of.n_question_tokens), strict=True)) for of in (one, other))
    return any(first[problem] != second[problem] for problem in common)


def _shapes(seen: Mapping[str, Side]) -> list[str]:
    (first, base), *others = seen.items()
    alike = [name for name, model in others if model.shape == base.shape]
    notes = [
        f"{name} has {_shape(model)} layers × heads and {first} {_shape(base)}: their heads are not matched, so that "
        "no profile of heads is correlated."
        for name, model in others
        if model.shape != base.shape
    ]
    if alike:
        notes.append(
            f"Heads of {_listed(alike)} are matched with those of {first} by their place, which means something only "
            "for models that go back to the same weights; intervals of rank correlations are over problems, not heads."
        )
    return notes


def _depths(seen: Mapping[str, Side]) -> list[str]:
    notes = []
    for name, model in seen.items():
        filled = layers_by_depth(model.shape[0]).any("layer").values
        if empty := [depth for depth, has_layers in zip(DEPTHS, filled, strict=True) if not has_layers]:
            notes.append(f"{name} has too few layers for every depth: {_listed(empty)} is undefined.")
    return notes


def _shape(model: Side) -> str:
    return " × ".join(map(str, model.shape))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def note_on_seeds(one: str, minus: str, n_one: int, n_minus: int) -> str:
    """What the difference of two recipes is over, in a sentence."""
    if min(n_one, n_minus) >= ENOUGH_SEEDS:
        return (
            f"{one} − {minus}: Welch's t over the means of {n_one} and {n_minus} models; problems are nested in them."
        )
    return (
        f"{one} − {minus}: of {n_one} and {n_minus} models, fewer than {ENOUGH_SEEDS} on a side; interval and p are "
        "over problems and hold for these weights, not for the recipes."
    )


def check_replicates(runs: Mapping[str, "Subject | ComparableRun"]) -> None:
    """Raise `RunError` where two runs are of the same weights, which are no two seeds."""
    seen: dict[str, str] = {}
    for name, run in runs.items():
        if isinstance(run, Subject):
            continue
        weights = str(run.manifest["options"]["model"]["sha256"])
        if weights in seen:
            raise RunError(f"{name} has the weights of {seen[weights]}, expected another seed; name each model once.")
        seen[weights] = name


def notes_on_groups(groups: Mapping[str, npt.ArrayLike], kept: Collection[str], typed: bool) -> tuple[str, ...]:
    """Which groups were left out, and what differences between groups of problems can't show."""
    sizes = {name: int(np.sum(members)) for name, members in groups.items()}
    notes = [
        f"{name} has {size or 'no'} problem{'s' * (size != 1)}, too few to be compared, and is left out."
        for name, size in sizes.items()
        if name not in kept
    ]
    if len(kept) == 1:
        notes.append(f"{next(iter(kept))} is the only group, so that there are no differences.")
    else:
        notes.append("Groups are of different problems: what differs between them need not come from what they are by.")
        notes.append(CORRECTIONS)
    return (*notes, *([UNTESTED_TYPES] if typed else []))
