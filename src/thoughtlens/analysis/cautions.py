"""What a result of few problems may not show, and sentences that warn of what it can't carry.

In: an analysis or a comparison. Out: sentences; and the same result without the intervals, p-values, hubs and types of
what fewer than five problems say.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.attention_evidence import Levels
from thoughtlens.analysis.comparison import Comparison
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.analysis.significance import LEAST_PROBLEMS
from thoughtlens.notation import ANSWER

LEAST_SHOWN: Final = 5
"""Problems below which no interval, hub or head is shown."""

LOW_ACCURACY: Final = 0.05

MOST_MOVED: Final = 0.02
"""How far the precision of a run may move a cell of attention before it is warned of, and `auto` takes float32."""

_P_VALUES: Final = ("p", "q", "p_familywise", "p_type", "q_type", "p_corrected", "hub_p")
_NAMES: Final = ("hub", "strongest", "type", "preferred")


def warnings_of(analysis: Analysis, *, dtype: str = "float32", precision: Mapping[str, Any] | None = None) -> list[str]:
    """What to beware of in an analysis, in sentences: few problems, few answers, a low accuracy, half precision.

    Args:
        analysis: of a run; where some of its problems chose and others were tested, these count.
        dtype: the precision in which the model ran.
        precision: how far this moves numbers, as the run's manifest says it.

    Returns:
        Sentences, none if there is nothing to warn of.

    Example:
        `warnings_of(tl.analyze(run), dtype=run.manifest["options"]["model"]["dtype"])`
    """
    n, n_answers = int(analysis.model["n"]), int(analysis.composition["n"].sel(query=ANSWER))
    accuracy = float(analysis.accuracy["accuracy"].sel(value="estimate"))
    found = few_problems(n)
    if accuracy < LOW_ACCURACY:
        found.append(
            f"accuracy is {accuracy:.1%} (n = {n}): where a model hardly solves its problems, its attention says "
            "little of how they are solved."
        )
    # A model that solves problems and never reaches a prefix has none: its value is predicted at `eot`.
    says_at_once = not n_answers and accuracy >= LOW_ACCURACY
    if not says_at_once and (2 * n_answers < n or n_answers < LEAST_PROBLEMS <= n):
        found.append(f"only {n_answers} of {n} outputs reach an answer, and rows of `answer` are of these alone.")
    if precision and precision["dtype"] == dtype:
        found += precision_warnings(precision)
    elif dtype in ("float16", "bfloat16"):
        found.append(
            f"the model ran in {dtype}, whose rounding grows from thought to thought; compare a few problems with "
            "--dtype float32."
        )
    return found


def precision_warnings(precision: Mapping[str, Any]) -> list[str]:
    """A warning if a precision moves a cell of attention by more than 0.02, as a list of one sentence or none."""
    largest = max(moved["largest"] for moved in (precision["batches"], precision["float32"]) if moved)
    if largest <= MOST_MOVED:
        return []
    return [
        f"the model ran in {precision['dtype']}, which moves a cell of attention by up to {largest:.2g} (more than "
        f"{MOST_MOVED}), and rounding grows from thought to thought; take --dtype float32."
    ]


def precision_in_words(precision: Mapping[str, Any]) -> str:
    """How far a precision moves numbers: of the cells of attention, and of the first and the last thought."""
    told = []
    for name, other in (("batches", "between batch sizes"), ("float32", "against float32")):
        if moved := precision[name]:
            grows = [f"{thought} by {of:.2%} of its length" for thought, of in moved["thoughts"].items()]
            ends = f" ({', '.join(dict.fromkeys((grows[0], grows[-1])))})" if grows else ""
            told.append(f"by up to {moved['largest']:.2g} {other}{ends}")
    said = f"On {precision['n']} problems {precision['dtype']} moves a cell of attention {', and '.join(told)}."
    if precision["left_out"]:
        said += f" It was not compared with float32: {precision['left_out']}."
    return f"{said} auto is {precision['chosen']}." if precision["chosen"] else said


def few_problems(n: int, of: str = "", *, means: bool = True) -> list[str]:
    """A warning if n problems are few, as a list of one sentence or none; `of` whom, if not of the whole.

    `means` says whether p-values are of means over these problems, which `LEAST_PROBLEMS` limits, and not permutations.
    """
    which = f"n = {n}{f' of {of}' if of else ''}"
    if n < LEAST_SHOWN:
        return [f"{which}: below {LEAST_SHOWN} problems no interval, p-value, hub or head is shown; take more."]
    if n < LEAST_PROBLEMS:
        left_out = "p-values of means over problems are left out, " if means else ""
        return [
            f"{which}: below {LEAST_PROBLEMS} problems intervals are too narrow, {left_out}and hubs and heads may be "
            "others in another sample; take more."
        ]
    return []


def shown_of_analysis(analysis: Analysis) -> Analysis:
    """An analysis as it may be shown: of fewer than five problems without intervals, p-values, hubs and types."""
    if int(analysis.model["n"]) >= LEAST_SHOWN:
        return analysis
    datasets = {name: of for name, of in analysis._asdict().items() if isinstance(of, xr.Dataset)}
    few: dict[str, Any] = {name: _without(of, of["n"] < LEAST_SHOWN) for name, of in datasets.items()}
    over = analysis.over_null
    if over is not None:
        over = Levels(*(_without(of, of["n"] < LEAST_SHOWN) for of in over))
    return analysis._replace(**few, over_null=over)


def shown_of_comparison(comparison: Comparison) -> Comparison:
    """A comparison as it may be shown: without intervals, p-values and types of sides of fewer than five problems."""
    dim, few = comparison.dim, comparison.measures["n"] < LEAST_SHOWN
    if not few.any():
        return comparison
    named = {name: bool(of) for name, of in zip(few[dim].values, few.values, strict=True)}
    differences, counts = comparison.differences, comparison.type_counts["type_count"]
    if differences.data_vars:
        either = (differences["n"] < LEAST_SHOWN) | (differences["n_minus"] < LEAST_SHOWN)
        correlations = comparison.rank_correlations
        comparison = comparison._replace(
            differences=_without(differences, either),
            p_values=comparison.p_values.where(~either.drop_vars([dim, "minus"], errors="ignore")),
            rank_correlations=_without(correlations, either) if correlations.data_vars else correlations,
        )
    return comparison._replace(
        measures=_without(comparison.measures, few),
        type_counts=comparison.type_counts.assign(type_count=counts.where(~few, 0)),
        head_types={name: of for name, of in comparison.head_types.items() if not named[name]},
    )


def _without(dataset: xr.Dataset, few: xr.DataArray) -> xr.Dataset:
    """The Dataset with what may not be shown undefined where there are few problems."""
    # Of variables without labels, which would be compared each time.
    xr.align(dataset, few, join="exact", copy=False)
    found, shown = {}, (~few).variable
    shown_values = shown | (dataset["value"] == "estimate").variable if "value" in dataset.dims else shown
    undefined = dict.fromkeys(_P_VALUES, np.nan) | dict.fromkeys(_NAMES, "")
    for name, values in dataset.data_vars.items():
        if "value" in values.dims or name in undefined:
            which, other = shown_values if "value" in values.dims else shown, undefined.get(str(name), np.nan)
            found[name] = values.variable.where(which, other)  # type: ignore[no-untyped-call]  # of xr.Variable
    return dataset.assign(found)
