"""What models have in common becomes sentences: what was compared, how, and what was left out."""

from collections.abc import Mapping

import numpy as np

from thoughtlens.analysis.ratios import DEPTHS, layers_by_depth
from thoughtlens.analysis.subjects import Seen, Subject

CORRECTIONS = (
    "p is of one number. p (Holm) holds for all differences shown together, over all layers and every pair, the "
    "preferences for all thoughts among them; p_bh of the CSV tables is the false discovery rate (Benjamini and "
    "Hochberg) over all differences of the table."
)

UNTESTED_TYPES = (
    "Types of heads are named by what passes its test in each by itself: more problems name more heads, and no test "
    "compares the counts."
)


def notes_on(subjects: Mapping[str, Subject], seen: Mapping[str, Seen], common: list[str]) -> tuple[str, ...]:
    """Everything that a reader of a comparison must know about its comparability.

    Args:
        subjects: the models as they were given.
        seen: the same, as they were read.
        common: the problems of all of them, none if they are compared unpaired.

    Returns:
        Plain sentences.
    """
    return (
        _problems(subjects, common),
        *_thoughts(seen),
        *_tokens(subjects, common),
        *_shapes(seen),
        *_depths(seen),
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


def _thoughts(seen: Mapping[str, Seen]) -> list[str]:
    counts = {name: model.n_thoughts for name, model in seen.items()}
    if len(set(counts.values())) == 1:
        return []
    each = ", ".join(f"{name} has {count}" for name, count in counts.items())
    return [
        f"The numbers of thoughts differ ({each}): between such models preference by thought and skip are not "
        "compared, and lags only as far as both have them; with more thoughts to look at, more mass on thoughts is to "
        "be expected."
    ]


def _tokens(subjects: Mapping[str, Subject], common: list[str]) -> list[str]:
    (first, base), *others = subjects.items()
    cut = [name for name, subject in others if common and _cut_otherwise(subject, base, common)]
    if not cut:
        return []
    return [
        f"{_listed(cut)} cut{'s' if len(cut) == 1 else ''} questions into other numbers of tokens than {first} "
        "(another tokenizer or prompt): what looks at the question looks at other keys."
    ]


def _cut_otherwise(one: Subject, other: Subject, common: list[str]) -> bool:
    if one.n_question_tokens is None or other.n_question_tokens is None:
        return False
    lengths = [
        dict(zip(subject.problems, np.asarray(subject.n_question_tokens).tolist(), strict=True))
        for subject in (one, other)
    ]
    return any(lengths[0][problem] != lengths[1][problem] for problem in common)


def _shapes(seen: Mapping[str, Seen]) -> list[str]:
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


def _depths(seen: Mapping[str, Seen]) -> list[str]:
    notes = []
    for name, model in seen.items():
        filled = layers_by_depth(model.shape[0]).any("layer").values
        if empty := [depth for depth, has_layers in zip(DEPTHS, filled, strict=True) if not has_layers]:
            notes.append(f"{name} has too few layers for every depth: {_listed(empty)} is undefined.")
    return notes


def _shape(model: Seen) -> str:
    return " × ".join(map(str, model.shape))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
