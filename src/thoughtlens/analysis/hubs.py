"""The test of heads for a hub.

In: attention, or sums of it by row. Out: the hub of each head, with strength and p-values. It is the package's one
answer to "is there a hub?", for heads, for the mean head of a layer, and for the mean head of the model:

1. A hub is preferred by more than one row. Its *strength* is its preference (observed over expected attention, see
   `attention_measures`) without the row that favours it most. A head that only looks one thought back has H[z5] = 5,
   since z5 gets everything that z6 has, and strength 0.
2. The null permutes the earlier thoughts within each row, anew for every problem. Summed over many problems such rows
   are normal, with a mean and a covariance that are known exactly, so that draws of the sums stand for permutations.
3. The largest strength of a head is compared with the largest of each draw times `least`, since the data choose the
   thought; where other problems have chosen it, its strength is compared with its own in each draw. The p-values of
   all heads are corrected together (Benjamini and Hochberg 1995).

Why `least` is 1.5 and not 1: a model with fixed weights prefers some thought by a little in every problem, and with
enough problems each trifle is significant, in random weights too. So the question is whether a thought draws more than
`least` even shares, as in a test of a minimum effect (Murphy and Myors 1999); for `least` > 1 the p-value is no longer
exact. Of 100 GPT-2s of width 64 with random weights all have a hub with `least` = 1; with 1.5 none has at GPT-2's own
initialisation (standard deviation 0.02), 3 have at 0.08 and 77 at 0.2, where single heads do give one thought two or
three times its share. A hub is a fact about attention, not about training.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.attention_measures import thought_map
from thoughtlens.analysis.significance import benjamini_hochberg
from thoughtlens.analysis.streamed_attention import Blocks, in_pieces
from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import text

LEAST = 1.5
"""Half as much again as an even share: what a hub draws at least."""

HUB_LEVEL = 0.05
"""Largest corrected p-value of a hub."""

DRAWS_AT_ONCE = 500

ENOUGH = 100
"""Draws as strong as the observed that settle a head: its p is then known to a tenth (Besag and Clifford 1991)."""


def hub_test(blocks: Blocks, *, least: float = LEAST, n_draws: int = 10_000, seed: int = 0) -> xr.Dataset:
    """Test in each head whether some thought is a hub.

    strength[k] = min_r Σ_{q≠r} A[q, k] / Σ_{q≠r} M[q]/q, sums over problems and the rows q >= 2 that see k but one.
    Range 0 to T − 1, null 1 and below: the minimum over left-out rows.  p = (1 + #{least · max_k strength* >= max_k
    strength}) / (1 + draws), strength* under permuted rows; `p_corrected` by Benjamini and Hochberg over all heads.
    A head has a hub where `p_corrected` < 0.05.

    Args:
        blocks: an attention Dataset, or its problems block by block.
        least: how many times its even share a hub draws, 1.5 or more.
        n_draws: permutations drawn at most (a head that 100 of them match is settled); 1 / n_draws times the number of
            heads must be well below 0.05.
        seed: same seed, same p-values.

    Returns:
        `hub` (its name, "" where there is none), `strongest` (the thought that was tested, "" where undefined), its
        `strength`, `p` and `p_corrected`, dims (layer, head); NaN where a head gives earlier thoughts nothing, and
        everywhere with fewer than four thoughts.  `strength_null` and `preference_null` are what chance makes of the
        largest strength and of the largest H, the means over draws; near 1, and above it the fewer problems there are.

    Raises:
        OptionError: `least` is below 1.5, or `n_draws` below 1.
        RunError: there are no problems.

    Example:
        >>> import numpy as np
        >>> from thoughtlens.schema import attention_dataset
        >>> rows = np.tri(9, 11, k=2)
        >>> rows[4:7, 4] = 9.0  # z4, z5 and z6 prefer z2
        >>> rows = np.tile(rows / rows.sum(-1, keepdims=True), (50, 1, 1, 1, 1))
        >>> ids = [f"p{i}" for i in range(50)]
        >>> found = hub_test(attention_dataset(rows, problem_ids=ids, correct=[True] * 50, n_question_tokens=[9] * 50))
        >>> found["hub"].item(), found["p_corrected"].item() < 0.05
        ('z2', True)

    Reference: Westfall and Young (1993) for the largest of many; see also `preferences`, which H is the size.
    """
    if least < LEAST or n_draws < 1:
        raise OptionError(
            f"least is {least} and n_draws {n_draws}, expected {LEAST} or more and 1 or more: below {LEAST} even "
            "shares the test finds hubs where there are none, in up to 3 of 10 heads; pass another."
        )
    parts = (row_sums(piece["attention"]) for piece in in_pieces(blocks))
    first = next(parts, None)
    if first is None:
        raise RunError("found no problems to test; extract at least one problem first.")
    rows = sum(parts, first)
    return _tested(rows["observed"], rows["variance"], least=least, n_draws=n_draws, seed=seed)


def hub_tests(
    rows: xr.Dataset, *, chosen: xr.Dataset | None = None, seed: int = 0
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """`hub_test` of every head, of the mean head of each layer, and of the mean head of the model, from `row_sums`.

    The thought that is tested is the strongest, or that in `chosen`, the `row_sums` of other problems.
    """
    found = []
    for over, name in (([], "variance"), (["head"], "layer_variance"), (["layer", "head"], "model_variance")):
        own, other = (
            None if of is None else of["observed"].mean(over) if over else of["observed"] for of in (rows, chosen)
        )
        assert own is not None, "rows are given"
        found.append(_tested(own, rows[name], chosen=other, seed=seed))
    heads, layers, model = found
    return heads, layers, model


def strongest(observed: xr.DataArray, chosen: xr.DataArray | None = None) -> xr.Dataset:
    """The `strongest` thought of each head, "" where undefined, its `place` and its `strength`.

    From attention as `row_sums` gives it, (…, query, key) to (…). Where other problems choose the thought, `chosen` is
    that of these.
    """
    observed = observed.transpose("query", "key", ...)
    strengths = _strengths(*_rows_that_count(observed.values))
    by = strengths if chosen is None else _strengths(*_rows_that_count(chosen.transpose(*observed.dims).values))
    places = np.where(np.isnan(by), -np.inf, by).argmax(0)
    strength = np.take_along_axis(strengths, places[None], axis=0)[0]
    names = text(np.where(np.isfinite(strength), observed["key"].values[places], ""))
    units = observed.isel(query=0, key=0, drop=True)
    found = {"strongest": names, "place": places, "strength": strength}
    return xr.Dataset({name: (units.dims, values) for name, values in found.items()}, units.coords)


def row_sums(attention: xr.DataArray) -> xr.Dataset:
    """What the hub test takes of some problems, added up: `observed` attention on earlier thoughts, its variances."""
    cells = thought_map(attention).transpose("problem", "layer", "head", "query", "key")
    order = np.arange(cells.sizes["query"])
    earlier = np.where(order[:, None] > order[None, :], np.nan_to_num(cells.values), 0.0)
    rows = cells.isel(problem=0, key=0, drop=True)
    mean_heads = {
        "variance": (earlier, rows),
        "layer_variance": (earlier.mean(2), rows.isel(head=0, drop=True)),
        "model_variance": (earlier.mean((1, 2)), rows.isel(layer=0, head=0, drop=True)),
    }
    variances = {name: labels.copy(data=_variance(values)) for name, (values, labels) in mean_heads.items()}
    return xr.Dataset({"observed": cells.isel(problem=0, drop=True).copy(data=earlier.sum(0)), **variances})


def _variance(earlier: np.ndarray) -> np.ndarray:
    """Variance of the earlier cells of each row, added up over problems: (problem, …, query, key) to (…, query)."""
    n_earlier = np.maximum(np.arange(earlier.shape[-2]), 1)
    variance = (earlier**2).sum(-1) / n_earlier - (earlier.sum(-1) / n_earlier) ** 2
    added_up: np.ndarray = variance.clip(min=0.0).sum(0)
    return added_up


def _tested(
    observed: xr.DataArray,
    variance: xr.DataArray,
    *,
    chosen: xr.DataArray | None = None,
    least: float = LEAST,
    n_draws: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """The hub test of every head (or layer): sums over problems, dims (…, query, key) and (…, query)."""
    units = [dim for dim in variance.dims if dim != "query"]
    observed, variance = observed.transpose(*units, "query", "key"), variance.transpose(*units, "query")
    found = strongest(observed, chosen)
    strength = found["strength"].values
    defined = np.isfinite(strength)
    p, strength_null, preference_null = (np.ones(strength.shape) for _ in range(3))
    numbers = [observed[dim].values for dim in units]
    for place in np.ndindex(p.shape):
        # Draws of its own for each head, so that the order of heads changes nothing.
        rng = np.random.default_rng([seed, *(int(of[at]) for of, at in zip(numbers, place, strict=True))])
        key = None if chosen is None else int(found["place"].values[place])
        reached = float(strength[place]) / least
        sums = observed.values[place], variance.values[place]
        # Without a strength there is no p, and the first draws show what chance makes of the largest preference.
        most = n_draws if defined[place] else min(n_draws, DRAWS_AT_ONCE)
        p[place], strength_null[place], preference_null[place] = _by_chance(*sums, key, reached, most, rng)
    p = np.where(defined, p, np.nan)
    corrected = benjamini_hochberg(xr.DataArray(p)).values if units else p
    tested = {
        "hub": text(np.where(corrected < HUB_LEVEL, found["strongest"].values, "")),
        "strongest": found["strongest"].values,
        "strength": strength,
        "p": p,
        "p_corrected": corrected,
        "strength_null": np.where(defined, strength_null, np.nan),
        "preference_null": preference_null,
    }
    return xr.Dataset({name: (units, values) for name, values in tested.items()}, found.coords)


def _rows_that_count(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of cells (query, key, …): those of rows that see two thoughts or more, and what an even split gives them."""
    earlier = np.expand_dims(np.tri(len(observed), k=-1)[2:], tuple(range(2, observed.ndim)))
    seen = earlier * observed[2:]
    return seen, earlier * (seen.sum(1, keepdims=True) / earlier.sum(1, keepdims=True))


def _strengths(seen: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Preference of each key without its best row: (query, key, …) to (key, …); NaN where but one row sees it."""
    above, below = (cells.sum(0) - cells for cells in (seen, even))
    enough = (even > 0) & (below > 1e-9 * even.sum(0))
    without = above / np.where(enough, below, np.nan)
    strengths: np.ndarray = np.fmin.reduce(without, axis=0, initial=np.nan)
    return strengths


def _by_chance(
    observed: np.ndarray,
    variance: np.ndarray,
    key: int | None,
    strength: float,
    n_draws: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """The share of draws with a strength as large; the means of the largest strength and of the largest preference.

    Fewer draws are made for a head that chance matches readily. Without a `key` the largest is that of all thoughts.
    """
    # A permuted row keeps its mass, and with it what an even split gives.
    _, even = _rows_that_count(observed)
    drawn = reached = 0
    means: list[tuple[float, float]] = []
    while drawn < n_draws and reached < ENOUGH:
        n = min(DRAWS_AT_ONCE, n_draws - drawn)
        cells = _permuted(even, variance[2:], n, rng)
        strengths = _strengths(cells, even[..., None])
        largest = np.fmax.reduce(strengths, axis=0) if key is None else strengths[key]
        if not means:
            means.append((float(largest.mean()), _chance_preference(cells, even) if key is None else 1.0))
        reached += int((largest >= strength).sum())
        drawn += n
    return (1 + reached) / (1 + drawn), *means[0]


def _chance_preference(cells: np.ndarray, even: np.ndarray) -> float:
    """The mean over draws (query, key, draw) of the largest H; NaN where no thought has one."""
    observed, expected = cells.sum(0), even.sum(0)
    found = observed / np.where(expected > 0, expected, np.nan)[:, None]
    return float(np.fmax.reduce(found, axis=0).mean())


def _permuted(even: np.ndarray, variance: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """The sums of one head (query, key, draw) with permuted rows, of those that see two thoughts or more."""
    n_thoughts = even.shape[1]
    earlier = np.tri(n_thoughts, k=-1)[2:, :, None]
    n_earlier = earlier.sum(1, keepdims=True)
    # Permuted cells of a row vary by `variance` and covary by −variance / (q − 1), so that their sum stays.
    scale = np.sqrt(variance[:, None, None] * n_earlier / (n_earlier - 1))
    # All draws of a cell side by side: sums over cells then add long rows, which is twice as fast.
    noise = rng.standard_normal((n_draws, n_thoughts, n_thoughts))[:, 2:].transpose(1, 2, 0)
    cells: np.ndarray = np.multiply(noise, earlier, order="C")
    cells -= cells.sum(1, keepdims=True) / n_earlier
    cells *= scale * earlier
    cells += even[..., None]
    return cells
