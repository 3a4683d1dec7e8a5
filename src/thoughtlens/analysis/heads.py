"""The test of heads for a hub, and the ranking of heads by importance with its reliability.

In: attention, or sums of it. Out: hubs with p-values; heads in order. The hub test is the package's one answer to "is
there a hub?", for heads, for the mean head of a layer, and for the mean head of the model:

1. A hub is preferred by more than one row. Its *strength* is its preference (observed over expected attention, see
   `metrics`) without the row that favours it most. A head that only looks one thought back has H[z5] = 5, since z5 gets
   everything that z6 has, and strength 0.
2. The null permutes the earlier thoughts within each row, anew for every problem. Summed over many problems such rows
   are normal, with a mean and a covariance that are known exactly, so that draws of the sums stand for permutations.
3. The largest strength of a head is compared with the largest of each draw times `least`. The p-values of all heads are
   corrected together (Benjamini and Hochberg 1995).

Why `least` is 1.5 and not 1: a model with fixed weights prefers some thought by a little in every problem, and with
enough problems each trifle is significant, in random weights too. So the question is whether a thought draws more than
`least` even shares, as in a test of a minimum effect (Murphy and Myors 1999); for `least` > 1 the p-value is no longer
exact. Of 100 GPT-2s of width 64 with random weights all have a hub with `least` = 1; with 1.5 none has at GPT-2's own
initialisation (standard deviation 0.02), 3 have at 0.08 and 77 at 0.2, where single heads do give one thought two or
three times its share. A hub is a fact about attention, not about training.

The reliability of a ranking is Spearman's correlation of the rankings in two halves of the problems, drawn at random
many times, stepped up to the whole sample. A half is a row of 0/1 weights: its sums come from the same pass as others.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import preferences, thought_map
from thoughtlens.analysis.pieces import Blocks, pieces
from thoughtlens.analysis.significance import benjamini_hochberg
from thoughtlens.analysis.statistics import spearman
from thoughtlens.errors import OptionError, RunError
from thoughtlens.names import head_name, text

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
        least: how many times its even share a hub draws; 1 for any preference at all.
        n_draws: permutations drawn at most (a head that 100 of them match is settled); 1 / n_draws times the number of
            heads must be well below 0.05.
        seed: same seed, same p-values.

    Returns:
        `hub` (the name of the strongest thought, "" where undefined), `strength`, `p` and `p_corrected`, dims
        (layer, head); NaN where a head gives earlier thoughts nothing, and everywhere with fewer than four thoughts.

    Raises:
        OptionError: `least` or `n_draws` is below 1.
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
    if least < 1.0 or n_draws < 1:
        raise OptionError(
            f"least is {least} and n_draws {n_draws}; a hub draws at least 1 even share, in 1 draw or more."
        )
    parts = (row_sums(piece["attention"]) for piece in pieces(blocks))
    first = next(parts, None)
    if first is None:
        raise RunError("found no problems to test; extract at least one problem first.")
    rows = sum(parts, first)
    return _tested(rows["observed"], rows["variance"], least=least, n_draws=n_draws, seed=seed)


def hub_tests(rows: xr.Dataset, *, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """`hub_test` of every head, of the mean head of each layer, and of the mean head of the model, from `row_sums`."""
    observed = rows["observed"]
    return (
        _tested(observed, rows["variance"], seed=seed),
        _tested(observed.mean("head"), rows["layer_variance"], seed=seed),
        _tested(observed.mean(("layer", "head")), rows["model_variance"], seed=seed),
    )


def hub_names(hubs: xr.Dataset) -> xr.DataArray:
    """The hub of each head (or layer) that has one by `hub_test`, "" elsewhere."""
    return hubs["hub"].where(hubs["p_corrected"] < HUB_LEVEL, "")


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
    observed: xr.DataArray, variance: xr.DataArray, *, least: float = LEAST, n_draws: int = 10_000, seed: int = 0
) -> xr.Dataset:
    """The hub test of every head (or layer): sums over problems, dims (…, query, key) and (…, query)."""
    units = [dim for dim in variance.dims if dim != "query"]
    observed, variance = observed.transpose(*units, "query", "key"), variance.transpose(*units, "query")
    strengths = _strengths(observed.values)
    largest = _largest(strengths)
    p = np.ones(largest.shape)
    for place in np.ndindex(p.shape):
        # Draws of its own for each head, so that the order of heads changes nothing.
        labels = [int(observed[dim].values[at]) for dim, at in zip(units, place, strict=True)]
        rng = np.random.default_rng([seed, *labels])
        p[place] = _p_value(observed.values[place], variance.values[place], float(largest[place]) / least, n_draws, rng)
    defined = np.isfinite(largest)
    template = variance.isel(query=0, drop=True)
    names = observed["key"].values[np.where(np.isnan(strengths), -np.inf, strengths).argmax(-1)]
    p_values = template.copy(data=np.where(defined, p, np.nan))
    return xr.Dataset(
        {
            "hub": template.copy(data=text(np.where(defined, names, ""))),
            "strength": template.copy(data=np.where(defined, largest, np.nan)),
            "p": p_values,
            "p_corrected": benjamini_hochberg(p_values) if units else p_values,
        }
    )


def _strengths(observed: np.ndarray) -> np.ndarray:
    """Preference of each key without its best row: (…, query, key) to (…, key); NaN where but one row sees it."""
    n_thoughts = observed.shape[-1]
    order = np.arange(n_thoughts)
    counts = (order[:, None] > order[None, :]) & (order[:, None] >= 2)
    even = np.where(counts, observed.sum(-1, keepdims=True) / np.maximum(order, 1)[:, None], 0.0)
    seen = np.where(counts, observed, 0.0)
    above, below = (cells.sum(-2, keepdims=True) - cells for cells in (seen, even))
    enough = counts & (counts.sum(0) > 1) & (below > 1e-9 * even.sum(-2, keepdims=True)) & (even > 0)
    without = np.divide(above, below, out=np.full(observed.shape, np.inf), where=enough)
    strengths = without.min(-2)
    return np.where(np.isinf(strengths), np.nan, strengths)


def _p_value(
    observed: np.ndarray, variance: np.ndarray, strength: float, n_draws: int, rng: np.random.Generator
) -> float:
    """The share of draws with a strength as large; fewer draws are made for a head that chance matches readily."""
    drawn = reached = 0
    while drawn < n_draws and reached < ENOUGH:
        n = min(DRAWS_AT_ONCE, n_draws - drawn)
        reached += int((_null_maxima(observed, variance, n, rng) >= strength).sum())
        drawn += n
    return (1 + reached) / (1 + drawn)


def _null_maxima(observed: np.ndarray, variance: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """The largest strength of one head in each draw of permuted rows."""
    order = np.arange(len(observed))
    earlier = order[:, None] > order[None, :]
    n_earlier = np.maximum(order, 1)[:, None]
    mean = observed.sum(-1, keepdims=True) / n_earlier
    # Permuted cells of a row vary by `variance` and covary by −variance / (q − 1), so that their sum stays.
    scale = np.sqrt(variance[:, None] * n_earlier / np.maximum(n_earlier - 1, 1))
    noise = rng.standard_normal((n_draws, *observed.shape)) * earlier
    noise -= noise.sum(-1, keepdims=True) / n_earlier
    return _largest(_strengths(np.where(earlier, mean + scale * noise, 0.0)))


def _largest(strengths: np.ndarray) -> np.ndarray:
    largest: np.ndarray = np.where(np.isnan(strengths), -np.inf, strengths).max(-1)
    return largest


N_SPLITS = 100

N_TOP = 10
"""Heads at the top whose overlap between halves is counted."""

LEAST_RELIABILITY = 0.5
"""Below it a ranking is more chance than head, and names no heads."""

RESOLUTION = 1e-6
"""Importances nearer than this are tied: float32 attention carries no more."""


def rank_heads(heads: xr.Dataset) -> xr.Dataset:
    """Heads by importance, the largest first.

    importance = thought mass · (max_k H[k] − 1): the attention that a head gives the thought that it prefers most,
    beyond an even split.  Range 0 to T − 2, since H averages 1 over keys.  Null 0, approached from above: chance makes
    some thought the largest.  Heads whose importance is undefined come last; ties go by thought mass.

    Args:
        heads: `Analysis.heads`, dims (layer, head).

    Returns:
        The same along `rank` (from 1), with coords `layer`, `head` and `name`.

    Example:
        `rank_heads(tl.analyze(run).heads)["name"].values[:10]`; an analysis has it as `ranking`
    """
    values = heads[["importance", "thought_mass"]].sel(value="estimate", drop=True).transpose("layer", "head")
    # lexsort sorts by its last key first, ascending, and puts NaN last; it is stable.
    order = np.lexsort((-values["thought_mass"].values.ravel(), -values["importance"].values.ravel()))
    layers, head_numbers = np.unravel_index(order, values["importance"].shape)
    ranked = heads.isel(layer=xr.DataArray(layers, dims="rank"), head=xr.DataArray(head_numbers, dims="rank"))
    names = map(head_name, ranked["layer"].values, ranked["head"].values)
    return ranked.assign_coords(rank=np.arange(1, len(order) + 1), name=("rank", text(names)))


def with_importance(samples: xr.Dataset) -> xr.Dataset:
    """Preferences of every resample, with the `hub_preference` and `importance` of each (see `rank_heads`)."""
    # The thought is held fixed at the observed one: the interval is that thought's, not that of whichever is largest.
    place = samples["preference"].isel(resample=0).fillna(-np.inf).argmax("thought")
    largest = samples["preference"].isel(thought=place).drop_vars("thought")
    return samples.assign(hub_preference=largest, importance=samples["thought_mass"] * (largest - 1.0))


def split_halves(n_problems: int, *, n_splits: int = N_SPLITS, seed: int = 0) -> xr.DataArray:
    """Which problems are in the first half of each random split: 0/1 uint8, dims (resample, problem)."""
    rng = np.random.default_rng(seed)
    halves = np.zeros((n_splits, n_problems), dtype=np.uint8)
    for row in halves:
        row[rng.permutation(n_problems)[: n_problems // 2]] = 1
    return xr.DataArray(halves, dims=("resample", "problem"))


def reliability(halves: xr.Dataset, total: xr.Dataset) -> xr.Dataset:
    """How far halves of the problems agree on the ranking of heads, from the sums of first halves and of all problems.

    `reliability`, `top_overlap` and `top_overlap_by_chance`, scalars; NaN where there is nothing to rank.
    """
    # r = Spearman's correlation of importance, mean over splits; 2r / (1 + r) is that of the whole sample (Spearman and
    # Brown 1910), and r itself stands where it is negative. The overlap is of the first ten heads, or of half of them.
    whole = _importance(total.expand_dims("resample"))
    defined = np.isfinite(whole[0])
    first, second = (np.nan_to_num(_importance(sums)[:, defined]) for sums in (halves, total - halves))
    n_heads = int(defined.sum())
    r, n_top = spearman(first, second), min(N_TOP, n_heads // 2)
    known = n_heads >= 3 and bool(np.isfinite(r).all())
    if not known:
        return xr.Dataset(dict.fromkeys(("reliability", "top_overlap", "top_overlap_by_chance"), np.nan))
    half = float(r.mean())
    tops = (np.argsort(-values, axis=-1, kind="stable")[:, :n_top] for values in (first, second))
    shared = [len(np.intersect1d(one, other)) for one, other in zip(*tops, strict=True)]
    return xr.Dataset(
        {
            "reliability": 2 * half / (1 + half) if half > 0 else half,
            "top_overlap": float(np.mean(shared) / n_top),
            "top_overlap_by_chance": n_top / n_heads,
        }
    )


def unreliable(ranking: xr.Dataset) -> str | None:
    """Why a ranking should name no heads, in a sentence, or None."""
    found, n = float(ranking["reliability"]), int(ranking["n"])
    if np.isnan(found):
        return f"the ranking of heads can't be judged from n = {n}: halves of the problems rank nothing."
    if found < LEAST_RELIABILITY:
        return (
            f"the ranking of heads is unreliable (split-half reliability {found:.2f}, expected {LEAST_RELIABILITY} or "
            f"more, n = {n}): no head is named; take more problems."
        )
    return None


def _importance(sums: xr.Dataset) -> np.ndarray:
    """(resample, heads), rounded so that equal heads are tied."""
    found = preferences(sums)
    importance = found["thought_mass"] * (found["preference"].max("thought") - 1.0)
    flat = importance.transpose("resample", "layer", "head").values.reshape(sums.sizes["resample"], -1)
    rounded: np.ndarray = np.round(flat / RESOLUTION) * RESOLUTION
    return rounded
