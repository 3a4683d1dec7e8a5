"""P-values of per-problem differences, corrections for many tests, and the smallest difference that n problems show.

In: arrays with the dim `problem`, or p-values. Out: labelled p-values. Problems are the replicates: a p-value says
nothing about other weights of the same architecture.

1. If a difference is as likely to be −x as x, flipping the signs of problems at random changes nothing. Flipped sums
   are ±1 weights @ values, as in `intervals`; row 0 of the weights is the sample as observed.
2. A flipped mean is studentised, with a correction for skewness (`corrected_t`): where differences are skewed, flips
   are no longer exact, and those of a plain mean reject up to 20 % of true nulls at 5 % and n = 50. p is the share of
   flips, the observed one among them, that reach the observed t. Below 20 problems there is none.
3. The largest t of a family in each flip gives p-values that hold for the whole family at once (Westfall and Young
   1993, Resampling-Based Multiple Testing). The same flips serve all members, so that their dependence counts.
4. Where too many numbers are tested for flips (`mean_p`), Student's distribution stands for them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.optimize import brentq
from scipy.special import ndtri, stdtr
from scipy.stats import binom, false_discovery_control

from thoughtlens.analysis.intervals import (
    CHUNK_CELLS,
    bootstrap_t,
    effective_size,
    paired_difference_interval,
    resampled_sum,
)
from thoughtlens.errors import OptionError

Alternative = Literal["two-sided", "greater"]

LEAST_PROBLEMS = 20
"""Below it a mean has no p-value."""

EQUIVALENCE = 0.90
"""Confidence of the interval that must lie inside a margin: two one-sided tests at 5 %."""

FEWEST_FOR_NONE = 200
"""Problems below which no mean is said to be near 0: too often they all miss the few that lose much."""

FEWEST_CARRYING = 20
"""Problems that must carry a mean (`effective_size`) for its interval to be relied on."""

UNSEEN = 5
"""Problems as far from 0 as the farthest that a sample is taken to have missed."""

TIES = 1e-9
"""By how much, relative to itself or 1, t may fall short of an equal one, by rounding."""


def sign_flips(n_problems: int, *, n_flips: int = 1000, seed: int = 0) -> xr.DataArray:
    """Signs of problems in every flip (resample, problem), the first all +1."""
    if n_problems < 1 or n_flips < 1:
        raise OptionError(f"found {n_problems} problems and {n_flips} flips; a p-value needs at least one of each.")
    bits = np.random.default_rng(seed).integers(2, size=(n_flips + 1, n_problems), dtype=np.int8)
    bits[0] = 0
    return xr.DataArray(1 - 2 * bits, dims=("resample", "problem"))


def corrected_t(sums: Any, squares: Any, cubes: Any, n: Any) -> Any:
    """Student's t of a mean, corrected for skewness, from Σ x, Σ x², Σ x³ of n problems; rises with the mean.

    `without_skewness` of t = sqrt(n)·mean/sd and u = skewness/sqrt(n) (Hall 1992, Journal of the Royal Statistical
    Society B 54).  0 where all x are 0, ±∞ where they are alike.  Arrays, or variables without labels.
    """
    mean, square = sums / n, squares / n
    variance = square - mean**2
    # What rounding leaves of a variance of 0 would be a skewness of any size.
    spread = variance.where(variance > 1e-12 * square)
    t = mean * (n / spread) ** 0.5
    # Products and roots, which take a tenth of the time of powers.
    u = (cubes / n - 3.0 * mean * square + 2.0 * mean * mean * mean) / (spread * spread**0.5) / n**0.5
    return without_skewness(t, u).fillna(mean.where(mean == 0.0, np.inf * np.sign(mean)))


def without_skewness(t: Any, u: Any) -> Any:
    """Hall's transformation of Student's t, t + u·(t²/3 + 1/6) + u²·t³/27: rises with t, and is nearly symmetric.

    u is the third central moment of the mean in cubed standard errors; arrays or Datasets.
    """
    return t + u * (t**2 / 3.0 + 1.0 / 6.0) + (u * t) ** 2 * t / 27.0


def mean_p(sums: xr.DataArray, squares: xr.DataArray, cubes: xr.DataArray, n: int) -> xr.DataArray:
    """One-sided p of a mean above 0, of n ≥ 2 problems: `corrected_t` against Student's distribution.

    Never below 2⁻ⁿ, the smallest p that flipping the signs of n problems has.
    """
    # Variables, which need no labels to be aligned: that takes longer than the arithmetic.
    bare: list[Any] = [of.variable for of in (sums, squares, cubes)]
    t = corrected_t(bare[0], bare[1], bare[2], n) * ((n - 1) / n) ** 0.5
    p = np.maximum(stdtr(n - 1, -t.values), 0.5 ** float(n))
    return sums.copy(data=np.where(squares.values > 0.0, p, 1.0))


def flip_p_values(
    statistics: xr.DataArray, *, over: tuple[str, ...] = (), alternative: Alternative = "two-sided"
) -> xr.DataArray:
    """The share of flips in which t, or its largest over the dims `over`, reaches the observed t (resample 0)."""
    t = abs(statistics) if alternative == "two-sided" else statistics
    observed = t.isel(resample=0, drop=True)
    largest = t.max(list(over)) if over else t
    return _share_reaching(largest, observed).transpose(*observed.dims)


def flipped_t(values: xr.DataArray, flips: xr.DataArray, n: xr.DataArray | int) -> xr.DataArray:
    """`corrected_t` of every flip of differences (problem, …), in which missing problems are 0: (resample, …)."""
    # Variables, as in `mean_p`.
    bare: Any = values.variable
    sums, cubes = (resampled_sum(bare**power, flips.variable) for power in (1, 3))
    t: Any = corrected_t(sums, (bare**2).sum("problem"), cubes, getattr(n, "variable", n))
    return xr.DataArray(t, values.isel(problem=0, drop=True).coords)


def sign_flip_test(
    differences: xr.DataArray,
    *,
    family: tuple[str, ...] = (),
    alternative: Alternative = "two-sided",
    n_flips: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """Test means over problems against 0 by flipping the signs of problems.

    Args:
        differences: dims (problem, ...); NaN problems are left out.
        family: dims that `p_familywise` covers; all but `problem` if empty.
        alternative: "two-sided", or "greater" for means above 0 alone.
        n_flips: flips drawn; no p is below 1 / (n_flips + 1).
        seed: same seed, same p-values.

    Returns:
        `mean`, `n` (problems that are not NaN), `p`, and `p_familywise` (largest t of the family), dims (...); both
        p-values are NaN where n is below 20.

    Raises:
        OptionError: there is no problem, or no flip was asked for.

    Example:
        >>> sign_flip_test(xr.DataArray([1.0, 2.0] * 10, dims="problem"), n_flips=999)["p"].item()
        0.001

    Reference: Westfall and Young (1993), Resampling-Based Multiple Testing; t as in Hall (1992), see `corrected_t`.
    """
    n = differences.notnull().sum("problem")
    flips = sign_flips(differences.sizes["problem"], n_flips=n_flips, seed=seed)
    tested = n >= LEAST_PROBLEMS
    t = flipped_t(differences.fillna(0.0), flips, n.clip(min=1)).where(tested, 0.0)
    over = family or tuple(str(dim) for dim in n.dims)
    p = {
        "p": flip_p_values(t, alternative=alternative),
        "p_familywise": flip_p_values(t, over=over, alternative=alternative),
    }
    known = {name: value.where(tested) for name, value in p.items()}
    return xr.Dataset({"mean": differences.mean("problem"), "n": n, **known})


def benjamini_hochberg(p: xr.DataArray, *, over: tuple[str, ...] = ()) -> xr.DataArray:
    """q-values: the false discovery rate at which each test would just pass.

    q[i] = min_{j: p[j] >= p[i]} p[j] · m / rank[j], m tests.

    Args:
        p: p-values, any dims; NaN stays NaN and doesn't count.
        over: dims of the tests corrected together; all if empty.

    Returns:
        The dims of `p`, 0-1, each at least its p.

    Example:
        >>> benjamini_hochberg(xr.DataArray([0.01, 0.02, 0.9], dims="head")).values.tolist()
        [0.03, 0.03, 0.9]

    Reference: Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57.
    """
    return _corrected(p, over, lambda known: np.asarray(false_discovery_control(known), dtype=np.float64))


def holm(p: xr.DataArray, *, over: tuple[str, ...] = ()) -> xr.DataArray:
    """p-values that hold for all tests at once, however they depend on each other.

    With p sorted upwards, adjusted[i] = max_{j<=i} min(1, (m − j) · p[j]), j from 0, m tests.

    Args:
        p: p-values, any dims; NaN stays NaN and doesn't count.
        over: dims of the tests corrected together; all if empty.

    Returns:
        The dims of `p`, 0-1, each at least its p.

    Example:
        >>> holm(xr.DataArray([0.01, 0.02, 0.9], dims="head")).values.tolist()
        [0.03, 0.04, 0.9]

    Reference: Holm (1979), Scandinavian Journal of Statistics 6.
    """
    return _corrected(p, over, _holm)


def mcnemar(before: xr.DataArray, after: xr.DataArray) -> xr.Dataset:
    """Exact McNemar test: do as many problems go from wrong to right as from right to wrong?

    p = P(|X − m/2| >= |lost − m/2|), X ~ Binomial(m, 1/2), m = lost + gained; 1 where m is 0.

    Args:
        before: bool, dims (problem, ...).
        after: bool, dims that broadcast against it, the same problems.

    Returns:
        `lost` (right before, wrong after), `gained`, `n` and two-sided `p`, the dims but `problem`.

    Example:
        >>> before, after = (xr.DataArray(x, dims="problem") for x in ([True] * 6, [False] * 5 + [True]))
        >>> float(mcnemar(before, after)["p"])
        0.0625

    Reference: McNemar (1947), Psychometrika 12; exact by the binomial.
    """
    right, now = before.astype(bool), after.astype(bool)
    lost, gained = (right & ~now).sum("problem"), (~right & now).sum("problem")
    p = np.minimum(1.0, 2.0 * binom.cdf(np.minimum(lost, gained), lost + gained, 0.5))
    return xr.Dataset({"lost": lost, "gained": gained, "n": before.sizes["problem"], "p": lost.copy(data=p)})


def equivalent_means(
    differences: xr.DataArray, margin: float, *, n_resamples: int = 1000, seed: int = 0
) -> xr.DataArray:
    """Whether means over problems are shown to be nearer to 0 than a margin.

    True where the 90 % bootstrap-t interval lies inside ±margin even if `UNSEEN` further problems differed as much as
    the one that differs most, either way; there are at least `FEWEST_FOR_NONE` problems; and `FEWEST_CARRYING` carry
    the sum, as well as the sum of what differs from the median. n problems can all miss what one in n/3 would show (the
    rule of three), so that the interval alone would show too much: rare problems that lose much make the mean. Of an
    effect that one problem of hundreds makes, "no effect" is still said too often.

    Args:
        differences: dims (problem, ...); NaN problems are left out.
        margin: above 0, in their unit.
        n_resamples: resamples of the problems.
        seed: same seed, same answer.

    Returns:
        bool, the dims but `problem`.

    Example:
        >>> small = xr.DataArray([0.01, -0.01] * 100, dims="problem")
        >>> equivalent_means(small, 0.05).item(), equivalent_means(small[:90], 0.05).item()
        (True, False)

    References: Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15 (two one-sided tests at 5 %);
    Hanley and Lippman-Hand (1983), Journal of the American Medical Association 249 (rule of three).
    """
    n = differences.notnull().sum("problem")
    enough = (n >= FEWEST_FOR_NONE).values
    if not enough.any():
        return n.copy(data=enough)
    values = differences.transpose("problem", ...).drop_vars("problem", errors="ignore").reset_coords(drop=True)
    largest = abs(values).max("problem").expand_dims(problem=UNSEEN)
    ends = [
        bootstrap_t(
            xr.concat([values, sign * largest], "problem"), n_resamples=n_resamples, seed=seed, confidence=EQUIVALENCE
        ).sel(value=end, drop=True)
        for sign, end in ((-1.0, "low"), (1.0, "high"))
    ]
    for its in (values, values - values.median("problem")):
        enough = enough & (effective_size(its.values) >= FEWEST_CARRYING)
    return n.copy(data=(ends[0] > -margin).values & (ends[1] < margin).values & enough)


def equivalent_proportions(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, margin: float
) -> npt.NDArray[np.bool_]:
    """Whether paired proportions are shown to differ by less than a margin: the 90 % score interval lies inside it.

    Args: as `paired_difference_interval`; margin, above 0.

    Example:
        >>> equivalent_proportions(0, 0, [100, 200], 0.02).tolist()
        [False, True]
    """
    _, low, high = np.moveaxis(paired_difference_interval(lost, gained, n, confidence=EQUIVALENCE), -1, 0)
    inside: npt.NDArray[np.bool_] = (low > -margin) & (high < margin)
    return inside


def detectable_mean(sd: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest mean difference that n problems would show, two-sided.

    δ = (z_{1−α/2} + z_{power}) · sd / sqrt(n), normal approximation.

    Args:
        sd: standard deviation of the differences over problems.
        n: problems.
        alpha: level of the test.
        power: chance of finding a difference of this size.

    Returns:
        δ, above 0, in the unit of `sd`.

    Raises:
        OptionError: no problem, or a level or power that is not between 0 and 1.

    Example:
        >>> round(detectable_mean(1.0, 100), 2)
        0.28
    """
    at_level, at_power = _normal_quantiles(n, alpha, power)
    return float((at_level + at_power) * sd / n**0.5)


def detectable_proportion(discordant: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of paired proportions, such as accuracies, that McNemar's test on n problems would show.

    δ solves mcnemar_power(ψ, δ, n) = power, ψ the share of discordant problems; exact.

    Args:
        discordant: share of problems that differ between the two, 0-1.
        n: problems.
        alpha: level of the test.
        power: chance of finding a difference of this size.

    Returns:
        δ, 0-1; NaN where n problems show no difference that ψ leaves room for (δ can't exceed ψ).

    Raises:
        OptionError: a share outside 0 to 1, or as `detectable_mean`.

    Example:
        >>> round(detectable_proportion(0.1, 1000), 3)
        0.029
    """
    if not 0.0 <= discordant <= 1.0:
        raise OptionError(f"the discordant share is {discordant}, expected a share of problems from 0 to 1.")
    _normal_quantiles(n, alpha, power)
    if not discordant:
        return float("nan")
    pairs = _discordant_pairs(discordant, n, alpha)
    return _least(lambda delta: _share_found(*pairs, delta / discordant) - power, discordant)


@cache
def detectable_one_way(n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of paired proportions that n problems would show if all that differ, differ one way.

    As `detectable_proportion` with ψ = δ, the smallest share of discordant problems that can show anything; 0-1, NaN
    where even n discordant problems would show nothing.

    Example:
        >>> round(detectable_one_way(100), 3)  # six discordant problems would be enough, and there must be more
        0.078
    """
    _normal_quantiles(n, alpha, power)
    return _least(lambda delta: mcnemar_power(delta, delta, n, alpha=alpha) - power, 1.0)


def mcnemar_power(discordant: float, difference: float, n: int, *, alpha: float = 0.05) -> float:
    """How often McNemar's exact test on n problems finds a difference of paired proportions.

    power = Σ_m P(M = m) · P(p(X, m) <= α), M ~ Binomial(n, ψ) problems being discordant and X ~ Binomial(m, (1 +
    δ/ψ)/2) of them lost, p(X, m) the exact p-value.

    Args:
        discordant: ψ, the share of problems that differ, 0-1.
        difference: δ, 0-ψ.
        n: problems.
        alpha: level of the test.

    Returns:
        0-1.

    Example:
        >>> round(mcnemar_power(0.06, 0.06, 100), 2)  # six discordant problems on average, all lost
        0.56
    """
    if not discordant > 0.0:
        return 0.0
    return _share_found(*_discordant_pairs(discordant, n, alpha), difference / discordant)


def _discordant_pairs(discordant: float, n: int, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many pairs may be discordant, the chance of each number, and how many lost ones do not reach the level."""
    m = np.arange(n + 1)
    likely = binom.pmf(m, n, discordant)
    m, likely = m[likely > 1e-12], likely[likely > 1e-12]
    return m, likely, np.asarray(binom.isf(alpha / 2.0, m, 0.5))


def _share_found(m: np.ndarray, likely: np.ndarray, most: np.ndarray, one_way: float) -> float:
    """Power where `one_way` of the discordant pairs go one way rather than either."""
    towards = (1.0 + one_way) / 2.0
    # X reaches the level if it is above `most`, or below its mirror image.
    return float((likely * (binom.sf(most, m, towards) + binom.cdf(m - most - 1, m, towards))).sum())


def _least(surplus: Callable[[float], float], most: float) -> float:
    """The smallest δ up to `most` at which a power that grows with δ has no lack; NaN if there is none."""
    return float(brentq(surplus, 0.0, most, xtol=1e-6)) if surplus(most) >= 0.0 else float("nan")


def _normal_quantiles(n: int, alpha: float, power: float) -> tuple[float, float]:
    if n < 1 or not 0.0 < alpha < 1.0 or not 0.0 < power < 1.0:
        raise OptionError(
            f"found n {n}, alpha {alpha} and power {power}; expected a problem or more, and two shares between 0 and 1."
        )
    return float(ndtri(1.0 - alpha / 2.0)), float(ndtri(power))


def _share_reaching(largest: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    # A few flips at a time: all flips × members of a family at once would fill the memory.
    step = max(1, CHUNK_CELLS // max(1, observed.size))
    n_flips = largest.sizes["resample"]
    least = observed - TIES * abs(observed).clip(1.0, 1.0 / TIES)
    counts = xr.zeros_like(observed, dtype=np.int64)
    for start in range(0, n_flips, step):
        counts = counts + (largest.isel(resample=slice(start, start + step)) >= least).sum("resample")
    return counts / n_flips


def _corrected(
    p: xr.DataArray, over: tuple[str, ...], correct: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
) -> xr.DataArray:
    family = list(over) or [str(dim) for dim in p.dims]
    ordered = p.transpose(..., *family)
    flat = ordered.values.reshape(-1, int(np.prod([p.sizes[dim] for dim in family])))
    corrected = np.full(flat.shape, np.nan)
    for row, known in enumerate(np.isfinite(flat)):
        corrected[row, known] = correct(flat[row, known]) if known.any() else []
    return ordered.copy(data=corrected.reshape(ordered.shape)).transpose(*p.dims)


def _holm(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order]))
    return adjusted
