"""The attention Dataset and the effects Dataset: what every producer writes and every analysis may rely on.

The attention Dataset:

    attention  (problem, layer, head, query, key)  float32, rounded on disk to the precision that the attribute
                                                   `precision` names, float16 or float32
    correct    (problem)  bool: the parsed answer equals the gold answer
    n_question_tokens  (problem)  int32: prompt tokens before `bot`
    value_weighted  (problem, layer, head, query, key)  on request: the norm of each key's weighted, projected value
    padding_mass    (problem, layer, head, query)  under an official protocol: what a row gives to padding,
                                                   of no slot: row and mass sum to 1

A slot that the checkpoint lacks (`bot`, `eot` or `answer`) is on neither axis; where it has no `answer`, the value's
first token is predicted at `eot`, as the attribute `answer_query` says.

Each row of `attention` is a partition of what its query sees, so it sums to 1. Cells that the causal mask forbids are
0, and a row that does not exist (the output never reached the answer prefix) is NaN in all its cells. `value_weighted`
is 0 or more, 0 and NaN in the same places, and its rows sum to whatever the head moves.

The effects Dataset:

    correct         (intervention, problem)  bool: the parsed answer equals the gold answer
    said_prefix     (intervention, problem)  bool: what the model says, in free decoding, begins with the
                                             answer prefix, as it must where that is forced
    prefix_logprob  (intervention, problem)  float32, nats: of the prefix's tokens, teacher-forced
    gold_logprob    (intervention, problem)  float32, nats: of the gold answer's tokens and the end token, teacher-
                                             forced after the answer prefix
    joint_logprob   (intervention, problem)  float32, nats: of prefix, answer and end together
    kl              (intervention, problem)  float32, nats: KL(baseline ‖ cut) of the first answer token; 0 in the
                                             baseline
    answer          (intervention, problem)  text: the parsed answer, "" if there is none
    failed          (intervention, problem)  bool: the problem could not be run under this cut, so that its other values
                                             are False, NaN and ""
    donor           (intervention, problem)  text, may be missing: the id of the problem whose values were put in place,
                                             "" where there is none or there are several

A model that answers without a prefix has neither `said_prefix` nor `prefix_logprob`, and its `joint_logprob` is its
`gold_logprob`. Coordinates along `problem`: the ids, and `n_steps`, how many worked steps a problem has, 0 where its
set does not say. Coordinates along `intervention`:

    intervention  unique readable labels; the first is "none", the baseline
    kind          "baseline", "cut", "control", or "order": one of several cuts made one after the other; "variant":
                  what a cut does, done in another way, and no finding of its own; "restored": one unit put back into a
                  run in which all thoughts are another problem's
    spec          JSON list of the interventions made together; "[]" for the baseline
    family        what sort of thing is cut: "heads", "kv_groups", "thoughts", "edges", "whole", …; "" if none of these
    unit          the one thing of its family that is cut, such as "L4H5", "z1" or "z4 ⊣ z1"; "" if it is not one thing
    edit          what takes its place, such as "zero", "mean" or "resample, 3"; several are joined by a plus
    at            the queries at which heads are cut, such as "eot, answer"; "" for all
    dose          how much of the edit is made: 1 − factor where a cut scales, else NaN
    order         the name of the ranking, or "random order 3", whose first k are cut; "" if it is of no order
    k             how many of the order are cut, 1, 2, …; 0 if it is of no order

Attributes: `controls`, a JSON object from the label of a cut to the labels of its controls, and whatever the producer
adds: `model` and `problems` as JSON, `n_thoughts`; `variants`, a JSON object from the label of a cut to the labels of
its variants by name; `donors`, how many a problem has, and `donor_rule`, which they are; and, where some problems are
tested and others chose what is tested, `holdout`, `holdout_seed` and `n_choosing`.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import ANSWER, OPTIONAL, key_names, query_names, text

ATTENTION = "attention"
VALUE_WEIGHTED = "value_weighted"
PADDING_MASS = "padding_mass"
PATTERNS = (ATTENTION, VALUE_WEIGHTED)
"""Variables with `ATTENTION_DIMS`; only the first is always there."""

ATTENTION_DIMS = ("problem", "layer", "head", "query", "key")
ROW_SUM_TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-9}


def attention_dataset(
    attention: np.ndarray,
    *,
    problem_ids: list[str],
    correct: np.ndarray,
    n_question_tokens: np.ndarray,
    attrs: dict[str, object] | None = None,
    slots: Collection[str] = OPTIONAL,
    beside: Mapping[str, np.ndarray] | None = None,
) -> xr.Dataset:
    """Label raw arrays (problem, layer, head, query, key) as an attention Dataset: T thoughts make T + 3 queries.

    `slots` are the optional ones that the checkpoint has; the rows and columns of others are left out. `beside` are
    other patterns of the same shape.
    """
    n_thoughts = attention.shape[3] - 3
    whole = xr.Dataset(
        {
            "attention": (ATTENTION_DIMS, attention),
            **{name: (ATTENTION_DIMS, pattern) for name, pattern in (beside or {}).items()},
            "correct": ("problem", np.asarray(correct, dtype=bool)),
            "n_question_tokens": ("problem", np.asarray(n_question_tokens, dtype=np.int32)),
        },
        coords={
            "problem": text(problem_ids),
            "layer": np.arange(attention.shape[1]),
            "head": np.arange(attention.shape[2]),
            "query": text(query_names(n_thoughts)),
            "key": text(key_names(n_thoughts)),
        },
        attrs=attrs or {},
    )
    if set(slots) >= set(OPTIONAL):
        return whole
    axes = {"query": query_names(n_thoughts, slots), "key": key_names(n_thoughts, slots)}
    return whole.sel({axis: text(names) for axis, names in axes.items()})


def slots_of(attention: xr.DataArray | xr.Dataset) -> list[str]:
    """Which optional slots the query axis has."""
    named = set(map(str, attention["query"].values)) if "query" in attention.coords else set(OPTIONAL)
    return [name for name in OPTIONAL if name in named]


def n_thoughts_of(attention: xr.DataArray | xr.Dataset) -> int:
    """The number T of thoughts, from the query axis."""
    return attention.sizes["query"] - len(slots_of(attention))


def with_all_slots(attention: xr.DataArray) -> xr.DataArray:
    """The same with every slot on both axes: rows that the checkpoint lacks are NaN, its missing columns 0."""
    if (found := slots_of(attention)) == list(OPTIONAL):
        return attention
    n_thoughts = n_thoughts_of(attention)
    filled = attention.reindex(key=text(key_names(n_thoughts)), fill_value=0.0)
    absent = [name for name in OPTIONAL if name not in found]
    return filled.reindex(query=text(query_names(n_thoughts))).assign_attrs(absent=absent)


def tested_half(ids: Sequence[str], share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Which problems are tested; the others choose what is tested on these (`--holdout`, `--holdout-seed`).

    A problem is tested where the first 8 bytes of SHA-256("SEED:ID"), as a number from 0 to 1, are below the share. Its
    side thus follows from its id alone, whatever other problems there are, and is the same in every command.

    Raises:
        OptionError: the share is not between 0 and 1.

    Example:
        >>> tested_half(["gsm_4", "gsm_5", "gsm_6", "gsm_7"], 0.5).tolist()
        [False, True, False, False]
    """
    if not 0 < share < 1:
        raise OptionError(f"the held-out share is {share:g}, expected more than 0 and less than 1; pass such as 0.5.")
    drawn = [int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]) / 2**64 for name in ids]
    return np.array(drawn, dtype=np.float64) < share


def check_attention(dataset: xr.Dataset) -> xr.Dataset:
    """Raise `RunError` unless the Dataset keeps the promises of this module; return it unchanged."""
    attention = dataset["attention"]
    if attention.dims != ATTENTION_DIMS:
        raise RunError(f"attention has dims {attention.dims}, expected {ATTENTION_DIMS}; extract the run again.")
    n_thoughts = n_thoughts_of(attention)
    slots = slots_of(attention)
    for axis, expected in (("query", query_names(n_thoughts, slots)), ("key", key_names(n_thoughts, slots))):
        found = [str(name) for name in attention[axis].values]
        if found != expected:
            raise RunError(f"the {axis} axis is {found}, expected {expected}; extract the run again.")
    values = _widened(attention)
    names = query_names(n_thoughts, slots)
    beside = _widened(dataset[PADDING_MASS]) if PADDING_MASS in dataset else 0.0
    _check_rows(values, names, ROW_SUM_TOLERANCE[dataset.attrs.get("precision", str(attention.dtype))], beside)
    _check_causal(values, names, ATTENTION)
    if VALUE_WEIGHTED in dataset:
        _check_value_weighted(dataset[VALUE_WEIGHTED], names)
    return dataset


def _widened(pattern: xr.DataArray) -> np.ndarray:
    values: np.ndarray = pattern.values.astype(np.promote_types(pattern.dtype, np.float32))
    return values


def _check_rows(values: np.ndarray, names: Sequence[str], tolerance: float, beside: np.ndarray | float) -> None:
    exists = _existing_rows(values, names, ATTENTION)
    sums = values.sum(-1) + beside
    worst = float(np.abs(np.where(exists, sums, 1.0) - 1.0).max(initial=0.0))
    # A partly NaN row has a NaN sum, and NaN must not pass as a small difference.
    if not worst <= tolerance:
        raise RunError(
            f"a row of attention sums to 1 ± {worst:.2g}, expected within {tolerance:g}; extract the run again."
        )


def _check_value_weighted(pattern: xr.DataArray, names: Sequence[str]) -> None:
    if pattern.dims != ATTENTION_DIMS:
        raise RunError(f"{VALUE_WEIGHTED} has dims {pattern.dims}, expected {ATTENTION_DIMS}; extract the run again.")
    values = _widened(pattern)
    of_rows = values[_existing_rows(values, names, VALUE_WEIGHTED)]
    # NaN must not pass as neither negative nor infinite.
    if not ((of_rows >= 0) & (of_rows < np.inf)).all():
        raise RunError(f"{VALUE_WEIGHTED} is negative or not finite somewhere, expected norms; is the model sound?")
    _check_causal(values, names, VALUE_WEIGHTED)


def _existing_rows(values: np.ndarray, names: Sequence[str], name: str) -> np.ndarray:
    """Which rows exist, as bool (…, query); only answer rows may be missing."""
    exists: np.ndarray = ~np.isnan(values).all(-1)
    needed = exists[..., [name != ANSWER for name in names]]
    if not needed.all():
        place = names[int(np.argwhere(~needed)[0][-1])]
        raise RunError(f"row {place} of {name} is NaN, and only answer rows may be missing; is the model sound?")
    return exists


def _check_causal(values: np.ndarray, names: Sequence[str], name: str) -> None:
    n_queries, n_keys = len(names), values.shape[-1]
    # Query i sits at key index i + 2 (`first` and `question` come before all queries).
    later = np.arange(n_keys)[None, :] > np.arange(n_queries)[:, None] + 2
    if np.nan_to_num(values[..., later]).any():
        raise RunError(f"{name} puts mass on positions after the query; extract the run again.")


EFFECTS_DIMS: Final = ("intervention", "problem")
EFFECTS_STORE: Final = "effects.zarr"
"""Where a run keeps them, among what is made from it."""

BASELINE: Final = "none"
"""Label of the baseline: nothing is cut."""

KINDS: Final = ("baseline", "cut", "variant", "restored", "control", "order")
_TEXT: Final = np.dtypes.StringDType()
_VARIABLES: Final[dict[str, Any]] = {
    "correct": np.bool_,
    "gold_logprob": np.float32,
    "joint_logprob": np.float32,
    "kl": np.float32,
    "answer": _TEXT,
    "failed": np.bool_,
}
_OF_PREFIX: Final[dict[str, Any]] = {"said_prefix": np.bool_, "prefix_logprob": np.float32}
"""Variables that are there, both of them, if the model has an answer prefix."""
_NOTHING: Final[dict[str, Any]] = {
    "family": "",
    "unit": "",
    "edit": "",
    "at": "",
    "dose": np.nan,
    "order": "",
    "k": 0,
}
"""Coordinates that say what was cut, as they are where they say nothing."""


def effects_dataset(
    outcomes: Mapping[str, npt.ArrayLike],
    *,
    labels: Sequence[str],
    kinds: Sequence[str],
    specs: Sequence[str],
    problem_ids: Sequence[str],
    n_steps: Sequence[int] | None = None,
    addresses: Sequence[Mapping[str, Any]] | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Label raw outcomes, each of shape (intervention, problem), as an effects Dataset; the baseline comes first.

    `addresses` are the coordinates from `family` to `k` of each intervention; one that is left out is empty. Where
    `joint_logprob` is left out it is the sum of `prefix_logprob`, if that is there, and `gold_logprob`.
    """
    dtypes = _VARIABLES | _OF_PREFIX | {"donor": _TEXT}
    joint = np.asarray(outcomes["gold_logprob"]) + np.asarray(outcomes.get("prefix_logprob", 0.0))
    told = {label: list(others) for label, others in (controls or {}).items()}
    rows = [_NOTHING | dict(address) for address in addresses or [{}] * len(labels)]
    coords: dict[str, Any] = {"intervention": text(labels), "problem": text(problem_ids)}
    coords |= {"n_steps": ("problem", np.array(n_steps or [0] * len(problem_ids), dtype=np.int32))}
    coords |= {name: ("intervention", text(values)) for name, values in {"kind": kinds, "spec": specs}.items()}
    for name, nothing in _NOTHING.items():
        values = [row[name] for row in rows]
        coords[name] = ("intervention", text(values) if nothing == "" else np.array(values, dtype=type(nothing)))
    # Zarr writes text in the order of memory: rows and columns of an array in Fortran's order would change places.
    given = {"joint_logprob": joint, **outcomes}
    arrays = {name: np.asarray(array, dtype=dtypes.get(name), order="C") for name, array in given.items()}
    return xr.Dataset(
        {name: (EFFECTS_DIMS, array) for name, array in arrays.items()},
        coords=coords,
        attrs={"controls": json.dumps(told, ensure_ascii=False), **(attrs or {})},
    )


def example_effects() -> xr.Dataset:
    """Effects for examples: two cuts of four problems, of which the first cut breaks two and the second none.

    Example:
        >>> example_effects()["correct"].sum("problem").values.tolist()
        [4, 2, 4]
    """
    correct = np.array([[True] * 4, [False, False, True, True], [True] * 4])
    logprob = np.where(correct, -1.0, -3.0)
    outcomes = {"correct": correct, "gold_logprob": logprob, "kl": logprob[0] - logprob}
    heads = ["L0H0", "L0H1"]
    return effects_dataset(
        outcomes | {"answer": np.where(correct, "8", "9"), "failed": np.zeros_like(correct)},
        labels=[BASELINE, *(f"{head} zero" for head in heads)],
        kinds=["baseline", "cut", "cut"],
        specs=["[]"] * 3,
        problem_ids=["p0", "p1", "p2", "p3"],
        addresses=[{}, *({"family": "heads", "unit": head, "edit": "zero"} for head in heads)],
    )


def check_effects(dataset: xr.Dataset) -> xr.Dataset:
    """Raise `RunError` unless the Dataset keeps the promises of this module; return it unchanged."""
    with_prefix = any(name in dataset for name in _OF_PREFIX)
    for name in (*_VARIABLES, *(_OF_PREFIX if with_prefix else ())):
        if name not in dataset or dataset[name].dims != EFFECTS_DIMS:
            found = dataset[name].dims if name in dataset else "nothing"
            raise RunError(f"the effects have {found} as {name!r}, expected dims {EFFECTS_DIMS}; intervene again.")
    if missing := [name for name in ("kind", "spec", *_NOTHING) if name not in dataset.coords]:
        raise RunError(f"the effects lack the coordinate {missing[0]!r} of their cuts, expected it; intervene again.")
    labels = [str(label) for label in dataset["intervention"].values]
    kinds = [str(kind) for kind in dataset["kind"].values]
    _check_labels(labels, kinds)
    _check_addresses(dataset, kinds)
    _check_controls(json.loads(dataset.attrs["controls"]), dict(zip(labels, kinds, strict=True)))
    _check_values(dataset)
    return dataset


def _check_addresses(dataset: xr.Dataset, kinds: list[str]) -> None:
    """That the baseline is of nothing, a unit of a family, and each step of an order there once."""
    columns = zip(*(dataset[name].values.tolist() for name in ("intervention", *_NOTHING)), strict=True)
    steps = set()
    for kind, (label, family, unit, edit, at, dose, order, k) in zip(kinds, columns, strict=True):
        if kind == "baseline" and (family or unit or edit or at or not np.isnan(dose)):
            raise RunError(f"the baseline cuts {unit or family or edit or at or dose!r}, expected nothing; cut again.")
        if unit and not family:
            raise RunError(f"{label!r} cuts the unit {unit!r} of no family, expected one such as heads; name it.")
        if (k >= 1) != (order != "") or (kind == "order" and not order):
            raise RunError(
                f"{label!r}, of kind {kind!r}, is step {k} of the order {order!r}, expected step 1, 2, … of a named "
                "order or 0 of none; intervene again."
            )
        if order and (order, k) in steps:
            raise RunError(f"two cuts are step {k} of the order {order!r}, expected one; intervene again.")
        steps.add((order, k))


def _check_labels(labels: list[str], kinds: list[str]) -> None:
    if len(set(labels)) != len(labels):
        twice = next(label for k, label in enumerate(labels) if label in labels[:k])
        raise RunError(f"two interventions are called {twice!r}, expected each label once; name one otherwise.")
    if labels[:1] != [BASELINE] or kinds[:1] != ["baseline"] or "baseline" in kinds[1:]:
        raise RunError(f"the interventions begin with {labels[:1]}, expected the baseline {BASELINE!r}; put it first.")
    if odd := sorted(set(kinds) - set(KINDS)):
        raise RunError(f"an intervention is of kind {odd[0]!r}, expected one of {', '.join(KINDS)}; intervene again.")


def _check_controls(controls: Mapping[str, Sequence[str]], kinds: Mapping[str, str]) -> None:
    for cut, its in controls.items():
        if odd := [label for label in (cut, *its) if label not in kinds]:
            raise RunError(f"the controls name {odd[0]!r}, expected a label of the effects; intervene again.")


def _check_values(dataset: xr.Dataset) -> None:
    failed = dataset["failed"].values
    numbers = ("gold_logprob", "joint_logprob", "kl", *(["prefix_logprob"] if "prefix_logprob" in dataset else []))
    for name in numbers:
        if (np.isnan(dataset[name].values) != failed).any():
            raise RunError(f"{name} is NaN elsewhere than where a problem failed; intervene again.")
    if (dataset["correct"].values & failed).any() or (dataset["answer"].values[failed] != "").any():
        raise RunError("a problem that failed has an answer, expected none; intervene again.")
    joint = dataset["gold_logprob"] + dataset.get("prefix_logprob", 0.0)
    if not np.allclose(dataset["joint_logprob"], joint, rtol=1e-5, atol=1e-4, equal_nan=True):
        raise RunError("joint_logprob is not the sum of the log-probabilities of prefix and answer; intervene again.")
    baseline = dataset["kl"].values[0]
    if (baseline[~failed[0]] != 0).any():
        raise RunError("the baseline differs from itself in kl, expected 0; intervene again.")
