"""Excess attention of heads, layers and the model over their nulls or over a null run, tested; and types of heads.

1. `excess_cells` has what each problem and head have beyond the nulls, in a few numbers. They are added up over
   problems like all else, under resample weights for intervals and under flipped signs for p-values.
2. `evidence_of_levels` makes one number a measure of those sums, for heads, for the mean head of each layer, and for
   the mean head of the model. Whether there is a hub is not asked again: `hub_test` has decided it.
3. `head_types` names each head by what it shows.

A *null run* is of the same architecture and problems and has learnt nothing of the matter, such as one with random
weights. `ExcessOverRun` reads it together with the run:

1. In each problem, each head of the run is held against the mean head of its layer in the null run: under random
   weights the heads of a layer are exchangeable, and head 3 of one model is not head 3 of the other.
2. A row that only one of them has, such as that of an answer, is left out of both.
3. What is compared is excess over the nulls of `excess_cells`, so that a run which merely gives thoughts more mass is
   no evidence of a hub. The differences are tested as all evidence is. Problems are the replicates: intervals and
   p-values say nothing of other random weights, of which the null run is one draw.

Attention is correlational: a type says where a head looks, not what it does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.heads import HUB_LEVEL, hub_tests, row_sums
from thoughtlens.analysis.nulls import MASSES, PATTERNS, PLACES, head_excess, without_rounding
from thoughtlens.analysis.pieces import Blocks, counted_pieces
from thoughtlens.analysis.significance import benjamini_hochberg, flip_p_values, studentised
from thoughtlens.analysis.statistics import interval, resample_weights
from thoughtlens.analysis.sums import ExcessSums, Piece, WeightedSums
from thoughtlens.errors import RunError
from thoughtlens.names import text

DIFFUSE = "diffuse"

TYPES = (*PATTERNS, *PLACES, DIFFUSE)
"""What `head_types` may call a head."""

LEAST_EXCESS = 0.05
"""Attention mass a row, beyond the null, that names a head: with enough problems any trifle is significant."""

LEVEL = HUB_LEVEL
"""Largest q-value that names a head."""


class Levels(NamedTuple):
    """Evidence of heads, layers and the model.

    Each has `excess` (…, measure, value), `p`, `q`, `p_familywise` (…, measure), and the thought of the measure `hub`
    as `hub` (…); NaN for measures that T thoughts can't show.
    """

    heads: xr.Dataset
    """dims (layer, head, …), with the `type` of each head"""
    layers: xr.Dataset
    """of the mean head of each layer: dims (layer, …)"""
    model: xr.Dataset
    """of the mean head of all layers"""


def evidence_of_levels(
    excess: xr.DataArray,
    flipped: xr.DataArray,
    squares: xr.Dataset,
    hubs: Sequence[xr.Dataset],
    *,
    n_thoughts: int,
    over_run: bool = False,
    confidence: float = 0.95,
) -> Levels:
    """Excess over the null of every measure, with interval, p-value and corrections, for heads, layers and the model.

    Without a preference −x is as likely as x: `p` is the share of sign flips whose studentised mean reaches the
    observed one, one-sided (more than the null); `q` corrects it over heads (or layers) by Benjamini and Hochberg;
    `p_familywise` compares it with the largest of all heads in each flip (max-T).

    The measure `hub` is the exception: its excess is that of the thought which `hub_test` finds strongest, and its p
    and q are those of that test. Over a null run sign flips say whether that excess is beyond the null run: p compares
    with the largest of *all* thoughts of the head in each flip, since the thought was chosen on the same data; q is 1
    where the run has no hub by `hub_test`, or one of less than `LEAST_EXCESS` beyond the null run.

    Args:
        excess: Σ w·excess over problems, dims (resample, layer, head, cell), the first resample the sample itself.
        flipped: Σ s·excess over problems, dims (resample, layer, head, cell), the first flip the sample itself.
        squares: Σ excess² of the `heads` and of the mean head of `layers` and of the `model`, with the coord `n`.
        hubs: `hub_tests` of the run: of heads, layers and the model.
        n_thoughts: T.
        over_run: whether the excess is over a null run.
        confidence: of the intervals.
    """
    levels = []
    for level, over, tested in zip(("heads", "layers", "model"), ([], ["head"], ["layer", "head"]), hubs, strict=True):
        # A mean over nothing would be a copy of the largest array there is.
        sums, signed = (values.mean(over) if over else values for values in (excess, flipped))
        means = (sums / squares["n"]).drop_vars("n")
        z = studentised(signed, squares[level]).drop_vars("n")
        of_hub = np.strings.startswith(means["cell"].values, "hub ")
        found = [_tested(means.isel(cell=~of_hub), z.isel(cell=~of_hub), confidence)]
        if of_hub.any():
            found.insert(0, _hub(means.isel(cell=of_hub), z.isel(cell=of_hub), tested, over_run, confidence))
        joined = xr.concat(found, "measure", data_vars="minimal", coords="minimal", compat="override")
        levels.append(joined.reindex(measure=text(measures(n_thoughts))).assign(hub=tested["hub"]))
    heads, layers, model = levels
    return Levels(heads.assign(type=head_types(heads)), layers, model)


def measures(n_thoughts: int) -> list[str]:
    """The measures of evidence for T thoughts, in the order in which they are shown."""
    return [*PATTERNS, *PLACES, *MASSES, *(f"lag{lag}" for lag in range(2, n_thoughts))]


def head_types(found: xr.Dataset) -> xr.DataArray:
    """Name each head by what it shows beyond the nulls.

    1. A measure passes with an excess of at least 0.05 of a row's attention (`LEAST_EXCESS`) and q < 0.05 (`LEVEL`);
       a hub passes where `hub_test` finds one (q < 0.05).
    2. The type is the largest that passes among hub, sequential and skip: whom the head prefers among thoughts;
    3. else the largest that passes among sink, self and readout: where its attention goes at all;
    4. else `diffuse`.

    The two groups are not compared with each other since their nulls leave unlike room: a head that treats `first` as
    one more thought is far above its share of all tokens, and shows nothing by it.

    Args:
        found: `excess` (…, measure, value) and `q` (…, measure), as in `Analysis.evidence`.

    Returns:
        Names, dims (...) without measure.

    Example:
        `head_types(tl.analyze(run).evidence).sel(layer=0, head=1).item()`, such as `sequential`
    """
    excess = found["excess"].sel(value="estimate", drop=True)
    enough = excess.where(passing(found), -np.inf)
    names = np.full(enough.isel(measure=0).shape, DIFFUSE, dtype=object)
    for group in (PLACES, PATTERNS):
        some = enough.sel(measure=list(group)).transpose(..., "measure").values
        names = np.where(np.isfinite(some).any(-1), np.array(group, dtype=object)[some.argmax(-1)], names)
    return excess.isel(measure=0, drop=True).copy(data=text(names)).rename("type")


def type_counts(types: xr.DataArray) -> dict[str, int]:
    """How many heads there are of each of `TYPES`."""
    return {name: int((types == name).sum()) for name in TYPES}


def passing(found: xr.Dataset) -> xr.DataArray:
    """Which measures pass: `LEAST_EXCESS` or more, unless it is the hub, and q < `LEVEL`; dims (..., measure)."""
    large = found["excess"].sel(value="estimate", drop=True) >= LEAST_EXCESS
    passes: xr.DataArray = (large | (found["measure"] == "hub")) & (found["q"] < LEVEL)
    return passes


def find_types(blocks: Blocks, *, n_problems: int, n_flips: int = 1000, seed: int = 0) -> xr.DataArray:
    """The types of heads (layer, head) as `analyze` finds them, and nothing else."""
    added, rows = ExcessSums(n_problems, n_flips=n_flips, seed=seed), None
    for attention, n_question_tokens in counted_pieces(blocks):
        added.add(head_excess(attention, n_question_tokens))
        piece = row_sums(attention)
        rows = piece if rows is None else rows + piece
    if rows is None:
        raise RunError("found no problems to find types on; extract at least one problem first.")
    flipped, squares = added.total()
    # The first flip is the sample itself, and types need no interval.
    excess, n_thoughts = flipped.isel(resample=[0, 0]), rows.sizes["query"]
    hubs = hub_tests(rows, seed=seed)
    squares = squares.assign_coords(n=n_problems)
    return evidence_of_levels(excess, flipped, squares, hubs, n_thoughts=n_thoughts).heads["type"]


class ExcessOverRun:
    """Excess of a run over a null run of the same problems, added up piece by piece.

    x[problem, layer, head] = excess of the head − mean over heads of the excess of that layer in the null run, for each
    measure of evidence.  Range −2 to 2.  Null 0, one-sided p (more than the null run).
    """

    def __init__(self, n_problems: int, *, n_resamples: int, n_flips: int, seed: int) -> None:
        """Weights are those of the run's own analysis."""
        self._n = n_problems
        self._sums = WeightedSums(resample_weights(n_problems, n_resamples=n_resamples, seed=seed))
        self._excess = ExcessSums(n_problems, n_flips=n_flips, seed=seed)

    def add(self, own: Piece, null: Piece) -> None:
        """Add the same problems of both runs, each their attention and their `n_question_tokens`.

        Raises:
            RunError: the two are of other problems or shapes.
        """
        _check_same(own[0], null[0])
        # An untrained model hardly ever reaches an answer, and `eot` alone is not the readout.
        rows, null_rows = own[0].where(null[0].notnull()), null[0].where(own[0].notnull())
        excess = head_excess(rows, own[1]).drop_vars("problem", errors="ignore")
        mean_head = head_excess(null_rows, null[1]).mean("head").drop_vars("problem", errors="ignore")
        beyond = without_rounding(excess - mean_head).transpose(*excess.dims)
        self._sums.add(xr.Dataset({"excess": beyond}))
        self._excess.add(beyond)

    def levels(self, hubs: Sequence[xr.Dataset], *, n_thoughts: int) -> Levels:
        """The evidence of all problems, given the hubs of the run (`hub_tests`)."""
        flipped, squares = self._excess.total()
        sums = self._sums.total()["excess"]
        return evidence_of_levels(
            sums, flipped, squares.assign_coords(n=self._n), hubs, n_thoughts=n_thoughts, over_run=True
        )


def _tested(means: xr.DataArray, z: xr.DataArray, confidence: float) -> xr.Dataset:
    """Each cell as a measure of its own."""
    units = _units(z)
    p, familywise = (flip_p_values(z, over=over, alternative="greater") for over in ((), units))
    tests = {"p": p, "q": benjamini_hochberg(p, over=units) if units else p, "p_familywise": familywise}
    found = xr.Dataset({"excess": interval(means, confidence=confidence), **tests}).rename(cell="measure")
    return found.transpose(*units, "measure", "value")


def _hub(means: xr.DataArray, z: xr.DataArray, hubs: xr.Dataset, over_run: bool, confidence: float) -> xr.Dataset:
    """The measure `hub`: the cell of the thought that `hub_test` names, with the p-values that say what it is worth."""
    units = _units(z)
    names = np.strings.replace(means["cell"].values, "hub ", "")
    named, defined = hubs["hub"], hubs["strength"].notnull()
    place = named.copy(data=(named.values[..., None] == names).argmax(-1))
    excess = interval(means.isel(cell=place), confidence=confidence).where(defined)
    tests = {"p": hubs["p"], "q": hubs["p_corrected"], "p_familywise": xr.full_like(hubs["p"], np.nan)}
    if over_run:
        p, familywise = (
            flip_p_values(z, over=over, alternative="greater").isel(cell=place).where(defined)
            for over in (("cell",), (*units, "cell"))
        )
        beyond = (hubs["p_corrected"] < LEVEL) & (excess.sel(value="estimate", drop=True) >= LEAST_EXCESS)
        q = benjamini_hochberg(p) if units else p
        tests = {"p": p, "q": q.where(beyond | q.isnull(), 1.0), "p_familywise": familywise}
    found = xr.Dataset({"excess": excess, **tests}).drop_vars("cell", errors="ignore")
    return found.expand_dims(measure=text(["hub"])).transpose(*units, "measure", "value")


def _units(z: xr.DataArray) -> tuple[str, ...]:
    """Heads, layers, or nothing for the model: what is corrected together."""
    return tuple(str(dim) for dim in z.dims if dim not in ("resample", "cell"))


def _check_same(attention: xr.DataArray, null: xr.DataArray) -> None:
    # Labels that differ would be left out by the subtraction without a word.
    alike = all(np.array_equal(attention[dim].values, null[dim].values) for dim in attention.dims)
    if not alike:
        raise RunError(
            f"the null run has {_sizes(null)} and the run {_sizes(attention)}, or other problems; take one of the same "
            "architecture, number of thoughts and problems."
        )


def _sizes(array: xr.DataArray) -> str:
    return ", ".join(f"{size} {dim}" for dim, size in array.sizes.items())
