"""The effects Dataset: what every producer of causal cuts writes and every analysis of them may rely on.

    correct       (intervention, problem)  bool: the parsed answer equals the gold answer
    gold_logprob  (intervention, problem)  float32, nats: of the gold answer's tokens and the end token, teacher-forced
                                           after the answer prefix
    kl            (intervention, problem)  float32, nats: KL(baseline ‖ edited) of the first answer token; 0 in the
                                           baseline
    answer        (intervention, problem)  text: the parsed answer, "" if there is none
    failed        (intervention, problem)  bool: the problem could not be run under this cut, so that its other values
                                           are False, NaN, NaN and ""
    donor         (intervention, problem)  text, may be missing: the id of the problem whose values were put in place,
                                           "" where there is none or there are several

    intervention  unique readable labels; the first is "none", the baseline
    problem       ids
    kind          (intervention)  "baseline", "cut", "control", or "order": one of several made one after the other
    spec          (intervention)  JSON list of the interventions made together; "[]" for the baseline

Attributes: `controls`, a JSON object from the label of a cut to the labels of its controls, and whatever the producer
adds: `model` and `problems` as JSON, `n_thoughts`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.errors import RunError

EFFECTS_DIMS: Final = ("intervention", "problem")
EFFECTS_STORE: Final = "effects.zarr"
"""Where a run keeps them, among what is made from it."""

BASELINE: Final = "none"
"""Label of the baseline: nothing is cut."""

KINDS: Final = ("baseline", "cut", "control", "order")
_TEXT: Final = np.dtypes.StringDType()
_DTYPES: Final[dict[str, Any]] = {
    "correct": np.bool_,
    "gold_logprob": np.float32,
    "kl": np.float32,
    "answer": _TEXT,
    "failed": np.bool_,
}
_OPTIONAL: Final[dict[str, Any]] = {"donor": _TEXT}


def effects_dataset(
    outcomes: Mapping[str, npt.ArrayLike],
    *,
    labels: Sequence[str],
    kinds: Sequence[str],
    specs: Sequence[str],
    problem_ids: Sequence[str],
    controls: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Label raw outcomes as an effects Dataset.

    Args:
        outcomes: the variables of this module's docstring, each of shape (intervention, problem); others are kept too.
        labels: one readable label an intervention, the baseline first.
        kinds: one of `KINDS` an intervention.
        specs: JSON list of the interventions made together, one an intervention.
        problem_ids: one id a problem.
        controls: labels of the controls of each cut.
        attrs: provenance.

    Returns:
        The Dataset of this module's docstring.
    """
    values = {name: np.asarray(array, dtype=(_DTYPES | _OPTIONAL).get(name)) for name, array in outcomes.items()}
    told = {label: list(others) for label, others in (controls or {}).items()}
    return xr.Dataset(
        {name: (EFFECTS_DIMS, array) for name, array in values.items()},
        coords={
            "intervention": np.array(labels, dtype=_TEXT),
            "problem": np.array(problem_ids, dtype=_TEXT),
            "kind": ("intervention", np.array(kinds, dtype=_TEXT)),
            "spec": ("intervention", np.array(specs, dtype=_TEXT)),
        },
        attrs={"controls": json.dumps(told, ensure_ascii=False), **(attrs or {})},
    )


def check_effects(dataset: xr.Dataset) -> xr.Dataset:
    """Raise `RunError` unless the Dataset keeps the promises of this module; return it unchanged."""
    for name in _DTYPES:
        if name not in dataset or dataset[name].dims != EFFECTS_DIMS:
            found = dataset[name].dims if name in dataset else "nothing"
            raise RunError(f"the effects have {found} as {name!r}, expected dims {EFFECTS_DIMS}; intervene again.")
    labels = [str(label) for label in dataset["intervention"].values]
    kinds = [str(kind) for kind in dataset["kind"].values]
    _check_labels(labels, kinds)
    _check_controls(json.loads(dataset.attrs["controls"]), dict(zip(labels, kinds, strict=True)))
    _check_values(dataset)
    return dataset


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
    for name in ("gold_logprob", "kl"):
        if (np.isnan(dataset[name].values) != failed).any():
            raise RunError(f"{name} is NaN elsewhere than where a problem failed; intervene again.")
    if (dataset["correct"].values & failed).any() or (dataset["answer"].values[failed] != "").any():
        raise RunError("a problem that failed has an answer, expected none; intervene again.")
    baseline = dataset["kl"].values[0]
    if (baseline[~failed[0]] != 0).any():
        raise RunError("the baseline differs from itself in kl, expected 0; intervene again.")
