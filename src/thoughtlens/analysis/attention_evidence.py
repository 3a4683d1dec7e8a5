"""The evidence of heads, layers and the model: attention beyond the nulls, and beyond models with random weights.

In: what each problem and head have beyond the nulls (`excess_cells`), added up over problems. Out: excess with
intervals, p-values and corrections for each measure, and a type for each head. Whether there is a hub is not tested
again: `hub_test` has decided it.

Three questions have three answers, and none stands for another:

1. Is there excess at all? `p` is over problems, against 0: with enough problems every trifle of these weights has one.
2. Is it more than 0.05 of a row's attention? `p_type` is over problems too; this names the type of a head.
3. Does training have to do with it? *Null models* are of the same architecture with random weights. A head's p is its
   rank among all heads of all null models; problems are no replicates here, since each head gives one number.

Attention is correlational: a type says where a head looks, not what it does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.attention_measures import where
from thoughtlens.analysis.heads import LEVEL, head_types
from thoughtlens.analysis.hubs import hub_tests, row_sums, strongest
from thoughtlens.analysis.intervals import bare_interval, with_labels
from thoughtlens.analysis.nulls import MASSES, PATTERNS, PLACES, excess_cells, head_excess
from thoughtlens.analysis.resampled_sums import add, excess_powers, parts
from thoughtlens.analysis.significance import LEAST_PROBLEMS, benjamini_hochberg, holm, mean_p
from thoughtlens.analysis.streamed_attention import Blocks, in_pieces
from thoughtlens.errors import RunError
from thoughtlens.notation import ANSWER, text


class Levels(NamedTuple):
    """`excess` (…, measure, value), `p`, `q`, `p_familywise` (…, measure), `hub` and `strongest` thought (…).

    Beyond null models `null_mean` and `null_high` (…, measure), the mean and the 95 % quantile of their heads, and
    `n_null`, how many there are, stand in the place of `p_familywise`.
    """

    heads: xr.Dataset
    """dims (layer, head, …), with `p_type` and `q_type` (…, measure) and the `type` of each head"""
    layers: xr.Dataset
    """of the mean head of each layer: dims (layer, …)"""
    model: xr.Dataset
    """of the mean head of all layers"""


ENOUGH_MODELS = 19
"""Null models of which all agree where p is 0.05, if heads of one model are all alike."""

LEVELS: tuple[tuple[str, tuple[str, ...]], ...] = (("heads", ()), ("layers", ("head",)), ("model", ("layer", "head")))
"""The levels, and what is averaged over in each."""


def evidence_of_levels(excess: xr.DataArray, powers: xr.Dataset, hubs: Sequence[xr.Dataset], n_thoughts: int) -> Levels:
    """Excess over the null of every measure, with interval, p-values and corrections, for heads, layers and the model.

    `excess` is the mean over problems (resample, layer, head, cell), `powers` are `excess_powers` with the coord
    `n_rows`, and `hubs` the `hub_tests` of the run.
    """
    # p: one-sided, more than 0; q: the same after Benjamini and Hochberg over heads (or layers); p_familywise: after
    # Holm. The measure `hub` has the p and q of `hub_test`. p_type: one-sided, more than `LEAST_EXCESS`; q_type: the
    # same after Benjamini and Hochberg over all measures and heads, but of the hub those of `hub_test` again.
    n_rows, names, levels = int(powers["n_rows"]), measures(n_thoughts), []
    cells = excess["cell"].values
    of_hub = np.strings.startswith(cells, "hub ")
    others = [names.index(str(cell)) for cell in cells[~of_hub]]
    powers = powers.drop_vars("n_rows").isel(cell=~of_hub)
    for (level, over), tested in zip(LEVELS, hubs, strict=True):
        # A mean over nothing would be a copy of the largest array there is.
        means = excess.variable.mean(over, skipna=False) if over else excess.variable
        tests = _tests(powers[level], n_rows)
        if level == "heads":
            p_type = _mean_p(powers["types"], n_rows)
            tests |= {"p_type": p_type, "q_type": benjamini_hochberg(p_type)}
        values = {"excess": bare_interval(means.isel(cell=~of_hub))} | {name: of.variable for name, of in tests.items()}
        found = {name: _in_order(of, others, len(names)) for name, of in values.items()}
        if of_hub.any():
            # `hub` is the measure of the thought that `hub_test` tests, with its p-values.
            place = xr.Variable(tested["p"].dims, np.flatnonzero(of_hub)[_hub_cell(cells[of_hub], tested)])
            excess_of_hub = bare_interval(means.isel(cell=place))
            of_test = {name: tested.variables["p" if name in ("p", "p_type") else "p_corrected"] for name in tests}
            of_test["excess"] = where(tested.variables["strength"].notnull(), excess_of_hub)
            for name in of_test.keys() - {"p_familywise"}:
                found[name][{"measure": PATTERNS.index("hub")}] = of_test[name]
        found |= {name: tested.variables[name] for name in ("hub", "strongest")}
        levels.append(with_labels(found, tested.coords.assign(measure=text(names))))
    heads, layers, model = levels
    return Levels(heads.assign(type=head_types(heads)), layers, model)


def _tests(powers: xr.DataArray, n_rows: int) -> dict[str, xr.DataArray]:
    p = _mean_p(powers, n_rows).where(n_rows >= LEAST_PROBLEMS)
    return {"p": p, "q": _corrected(p, benjamini_hochberg), "p_familywise": _corrected(p, holm)}


def _in_order(values: xr.Variable, places: Sequence[int], n_measures: int) -> xr.Variable:
    """Values (…, cell, …) at their places among all measures (…, measure, …), NaN elsewhere."""
    axis = values.get_axis_num("cell")
    found = np.full((*values.shape[:axis], n_measures, *values.shape[axis + 1 :]), np.nan)
    np.moveaxis(found, axis, 0)[places] = np.moveaxis(values.values, axis, 0)
    return xr.Variable(["measure" if dim == "cell" else dim for dim in values.dims], found)


def measures(n_thoughts: int) -> list[str]:
    """The measures of evidence for T thoughts, in the order in which they are shown."""
    return [*PATTERNS, *PLACES, *MASSES, *(f"lag{lag}" for lag in range(2, n_thoughts))]


def find_types(blocks: Blocks, *, n_problems: int, seed: int = 0) -> xr.DataArray:
    """The types of heads (layer, head) as `analyze` finds them, and nothing else."""
    powers, rows = None, None
    for piece in in_pieces(blocks):
        powers = add(powers, excess_powers(head_excess(piece["attention"], piece["n_question_tokens"])))
        rows = add(rows, row_sums(piece["attention"]))
    if powers is None or rows is None:
        raise RunError("found no problems to find types on; extract at least one problem first.")
    # Types need no interval: the observed excess stands for its resamples.
    excess = powers["heads"].sel(power=1, drop=True).expand_dims(resample=2) / n_problems
    powers = powers.assign_coords(n_rows=n_problems)
    return evidence_of_levels(excess, powers, hub_tests(rows, seed=seed), rows.sizes["query"]).heads["type"]


def _mean_p(powers: xr.DataArray, n_rows: int) -> xr.DataArray:
    sums, squares, cubes = (powers.isel(power=place, drop=True) for place in range(3))
    return mean_p(sums, squares, cubes, n_rows)


def _corrected(p: xr.DataArray, correct: Callable[..., xr.DataArray]) -> xr.DataArray:
    """Corrected over heads or layers, each measure apart; of the model, p itself."""
    units = tuple(str(dim) for dim in p.dims if dim not in ("cell", "measure"))
    return correct(p, over=units) if units else p


def _hub_cell(cells: np.ndarray, hubs: xr.Dataset) -> np.ndarray:
    """The place among hub cells of each head's strongest thought."""
    of_thought = hubs["strongest"].values[..., None] == np.strings.replace(cells, "hub ", "")
    place: np.ndarray = of_thought.argmax(-1)
    return place


def null_values(blocks: Iterable[xr.Dataset]) -> dict[str, xr.DataArray]:
    """The mean excess of each measure in the heads, layers and mean head of a null model, by level: (…, measure).

    `blocks` are its attention, or sums that were kept in its place. `readout` needs answers, and is NaN without any.
    """
    sums, rows = None, None
    for of_problems, of_rows in ((of[1], of[3]) for block in blocks for of in parts(block)):
        sums, rows = add(sums, of_problems.sum("problem", skipna=False)), add(rows, of_rows)
    if sums is None or rows is None:
        raise RunError("found no problems of a null model; extract at least one problem first.")
    excess = excess_cells(sums) / sums["n"]
    if not sums["row_exists"].sel(row=ANSWER) > 0:
        excess = excess.where(excess["cell"] != "readout")
    found = {}
    for level, over in LEVELS:
        means, named = excess.mean(over) if over else excess, strongest(rows["observed"].mean(over))
        of_hub = np.strings.startswith(means["cell"].values, "hub ")
        parts_of = [means.isel(cell=~of_hub)]
        if of_hub.any():
            at_hub = means.isel(cell=of_hub)
            place = xr.Variable(named["strength"].dims, _hub_cell(at_hub["cell"].values, named))
            hub = at_hub.isel(cell=place).where(named["strength"].notnull())
            parts_of.append(hub.drop_vars("cell").expand_dims(cell=text(["hub"])))
        found[level] = xr.concat(parts_of, "cell", coords="minimal", compat="override").rename(cell="measure")
    return found


def beyond_nulls(own: Levels, nulls: Sequence[Mapping[str, xr.DataArray]]) -> Levels:
    """What a run has beyond models with random weights: the rank of each head among all heads of all of them.

    `own` is the evidence of the run, `nulls` are the `null_values` of each null model.
    """
    # p = (1 + null heads with an excess as large) / (1 + null heads); q: Benjamini and Hochberg over heads, each
    # measure apart. Layers are ranked among layers, the model among models. A type needs both: q_type is the larger of
    # the q here and that of the run's own evidence.
    levels = []
    for (level, _), found in zip(LEVELS, own, strict=True):
        values = found["excess"].sel(value="estimate", drop=True)
        units = [dim for dim in values.dims if dim != "measure"]
        if any(null[level].sizes.get(dim) != values.sizes[dim] for null in nulls for dim in units):
            raise RunError(
                "a null model has another number of layers or heads than the run; take one of the same architecture "
                "and number of thoughts."
            )
        drawn = [null[level].reindex(measure=values["measure"]).transpose(*units, "measure") for null in nulls]
        pooled = np.concatenate([of.values.reshape(-1, values.sizes["measure"]) for of in drawn])
        n_null = xr.DataArray((~np.isnan(pooled)).sum(0), dims="measure")
        reached = xr.zeros_like(values)
        for null_head in pooled:
            reached = reached + (null_head >= values - 1e-12)
        p = ((1.0 + reached) / (1.0 + n_null)).where(values.notnull() & (n_null > 0))
        q = _corrected(p, benjamini_hochberg)
        null: dict[str, Any] = {
            "null_mean": ("measure", _over_known(np.nanmean, pooled)),
            "null_high": ("measure", _over_known(lambda some, axis: np.nanquantile(some, 0.95, axis=axis), pooled)),
            "n_null": n_null,
        }
        beyond = found[["excess", "hub", "strongest"]].assign(p=p, q=q, **null)
        if level == "heads":
            beyond = beyond.assign(q_type=np.maximum(q, found["q_type"]))
            beyond = beyond.assign(type=head_types(beyond))
        levels.append(beyond)
    return Levels(*levels)


def _over_known(statistic: Callable[..., np.ndarray], pooled: np.ndarray) -> np.ndarray:
    """Of each column, NaN where all of it is."""
    known = ~np.isnan(pooled).all(0)
    found = np.full(pooled.shape[1], np.nan)
    found[known] = statistic(pooled[:, known], axis=0)
    return found


def null_limits(n_models: int, n_heads: int) -> str:
    """What p-values so many null models allow, in a sentence or two, where `n_heads` are corrected together."""
    n_null = n_models * n_heads
    least = 1.0 / (1.0 + n_null)
    said = f"{n_null} heads of {n_models} null model{'s' * (n_models != 1)}: no p is below {least:.2g}"
    if least >= LEVEL:
        return f"{said}, so that none can pass at {LEVEL}; make more with --null-draws 20."
    together = int(n_heads * least / LEVEL) + 1
    if together > 1:
        said += f", and corrected over {n_heads} heads none passes at {LEVEL} unless {together} do together"
    if n_models < ENOUGH_MODELS:
        said += "; heads of one model share its weights, and where they are alike so few models make p too small"
    return f"{said}." if n_models >= ENOUGH_MODELS else f"{said}; make more with --null-draws 20."
