"""How often tests reject a true null, how often intervals hold the truth, and how often "no effect" is said wrongly.

    python -m benchmarks.calibration                       every table, 2,000 simulations a cell, about half an hour
    python -m benchmarks.calibration effects hubs --trials 500
    python -m benchmarks.calibration --folder DIR          keep the runs that real populations are drawn from

Effects of cuts are drawn from populations of two kinds: numbers made up with heavy tails, moved so that their mean is
what the cell says; and the effects of cutting each head and edge of two bundled models on 800 problems, as they are
where they reach .1 nats, multiplied so that their mean is what the cell says, and moved.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

import thoughtlens as tl
from benchmarks import simulations
from benchmarks.timing import machine
from thoughtlens.analysis import hub_test, paired_differences
from thoughtlens.analysis.attention_against_effects import grouped_p
from thoughtlens.analysis.effects import MARGIN, RANKED_BY
from thoughtlens.analysis.intervals import bootstrap_t, effective_size, paired_difference_interval
from thoughtlens.analysis.significance import FEWEST_CARRYING, equivalent_means, mcnemar
from thoughtlens.schema import attention_dataset

SIZES: Final = (20, 50, 100, 500)
EFFECT: Final = 0.1
"""Nats, the smallest effect whose interval is asked to hold it."""

MULTIPLIED: Final = 0.005
"""Nats: members of a smaller mean would have to be multiplied by more than 20 to reach .1."""

AT_ONCE: Final = 100
"""Samples in one array: 500 problems of as many under 1,000 resamples take 0.4 GB."""


def tests_of_means(trials: int, folder: Path) -> Iterator[str]:
    """Type I at 5 % of the tests of means, and of comparisons of problems and of recipes."""
    yield "sign flips, two-sided: " + " | ".join(["population", *(f"n = {n}" for n in SIZES[1:])])
    for name in simulations.POPULATIONS:
        found = (simulations.sign_flips_reject(name, n, n_trials=trials) for n in SIZES[1:])
        yield _row(name, found)
    yield "more than the bound of a head's type (one-sided): as above"
    for name in simulations.POPULATIONS:
        yield _row(name, (simulations.least_excess_rejects(name, n, n_trials=trials) for n in SIZES[1:]))
    yield "42 problems against 258: spread of the smaller side 1/3 | 1 | 3"
    for name in simulations.POPULATIONS:
        yield _row(name, (simulations.unpaired_rejects(name, 42, 258, s, n_trials=trials) for s in (1 / 3, 1.0, 3.0)))
    yield "recipes (Welch): 3 against 3 seeds | 3 against 6, spread 1/3 | 3"
    cases = ((3, 3, 1.0), (3, 6, 1 / 3), (3, 6, 3.0))
    yield _row("", (simulations.recipes_reject(*case, n_trials=trials) for case in cases))
    yield "interval over seeds holds the recipe's mean: 3 | 5 | 10 seeds"
    yield _row("", (simulations.seeds_cover(n, n_trials=trials) for n in (3, 5, 10)))
    yield "rank among the heads of 20 null models of 16 heads: likeness of a model's heads 0 | .3 | .7"
    yield _row("", (simulations.null_rank_rejects(20, 16, like, n_trials=trials) for like in (0.0, 0.3, 0.7)))
    yield "position null, rows that look by lag alone, n = 50 | 100: rejects, interval holds 0"
    for n in (50, 100):
        yield _row(f"n = {n}", simulations.key_effects_reject(n, n_trials=min(trials, 500)))


def tests_of_hubs(trials: int, folder: Path) -> Iterator[str]:
    """Type I at 5 % of `hub_test` where a thought has exactly its bound of even shares; and power."""
    yield "hub_test at 1.5: strength of z2 in the population 1 | 1.5 | 2 | 3, n = 50 | 200"
    for n in (50, 200):
        strengths = (1.0, 1.5, 2.0, 3.0)
        yield _row(f"n = {n}", (_hubs_found(strength, n, min(trials, 500)) for strength in strengths))


def _hubs_found(strength: float, n: int, trials: int) -> float:
    """How often z2 is called a hub that has so many even shares in every row; rows of a problem are fully alike."""
    rng = np.random.default_rng(n)
    q, k = np.indices((6, 6))
    # A fifth of each row is noise that is even in the mean.
    share = np.minimum(1.0, (strength - 0.2) / 0.8 / np.maximum(q, 1))
    others = np.where(k == 1, share, (1.0 - share) / np.maximum(q - 1, 1))
    rows = np.where(q > k, np.where(q > 1, others, 1.0), 0.0)
    found = 0
    for trial in range(trials):
        mass = np.minimum(0.9, 0.3 * rng.lognormal(0.0, 0.5, size=(n, 1, 1)))
        noise = rng.dirichlet(np.ones(6), size=(n, 6)) * (q > k)
        noise /= np.maximum(noise.sum(-1, keepdims=True), 1e-9)
        attention = np.zeros((n, 1, 1, 9, 11))
        attention[:, 0, 0, 1:7, 3:9] = mass * (0.8 * rows + 0.2 * noise)
        attention[..., 1] = 1.0 - attention.sum(-1)  # the question takes the rest
        ids = [f"p{place}" for place in range(n)]
        made = attention_dataset(attention, problem_ids=ids, correct=[True] * n, n_question_tokens=[9] * n)
        found += str(hub_test(made, seed=trial)["hub"].item()) != ""
    return found / trials


def tests_of_verdicts(trials: int, folder: Path) -> Iterator[str]:
    """Type I at 5 % of the verdict, where attention and effects are alike within layers and unrelated in them."""
    yield "verdict over 16 heads of 4 layers: intraclass correlation 0 | .3 | .5 | .7"
    yield _row("within layers", (_verdicts(icc, trials) for icc in (0.0, 0.3, 0.5, 0.7)))
    yield _row("freely (before)", (_verdicts(icc, trials, free=True) for icc in (0.0, 0.3, 0.5, 0.7)))


def _verdicts(icc: float, trials: int, *, free: bool = False) -> float:
    rng, layers = np.random.default_rng(round(100 * icc)), [f"L{place // 4}" for place in range(16)]
    groups = ["all"] * 16 if free else layers

    def drawn() -> np.ndarray:
        shared = np.repeat(rng.normal(size=4), 4) * icc**0.5
        values: np.ndarray = shared + rng.normal(size=16) * (1.0 - icc) ** 0.5
        return values

    return float(
        np.mean([grouped_p(drawn(), drawn(), groups, seed=trial) <= simulations.LEVEL for trial in range(trials)])
    )


def effects_of_cuts(trials: int, folder: Path) -> Iterator[str]:
    """Coverage of intervals of effects, and how often "no effect" is said of one as large as the margin."""
    yield "accuracy: lost and gained shares | interval holds the truth, McNemar rejects, n = 20 | 100 | 500"
    for lost, gained in ((0.01, 0.0), (0.05, 0.05), (0.1, 0.02), (0.4, 0.05)):
        found = [number for n in (20, 100, 500) for number in _accuracies(lost, gained, n, trials)]
        yield _row(f"−{lost} +{gained}", found)
    rounds = max(1, trials // AT_ONCE)
    made, real = _populations(folder)
    large = real[abs(real.mean(-1)) >= EFFECT]
    yield f"log-probability, the {len(large)} real cuts of at least .1 nats: covered, share with a warning"
    for n in SIZES:
        yield _row(f"n = {n}", _covered(large, n, rounds))
    several = real[abs(real.mean(-1)) >= MULTIPLIED]
    kinds = {
        "made up, moved": (lambda mean: _moved(made, mean)),
        f"real ({len(several)} cuts), multiplied": (lambda mean: several * (mean / several.mean(-1, keepdims=True))),
        f"real ({len(real)} cuts), moved": (lambda mean: _moved(real, mean)),
    }
    for name, population in kinds.items():
        yield f"{name}: .1 nats are covered, share with a warning | 'no effect' at the margin, mean and worst"
        for n in SIZES:
            none = _none_said(population(-MARGIN), n, rounds)
            yield _row(f"n = {n}", [*_covered(population(-EFFECT), n, rounds), np.mean(none), np.max(none)])


def _accuracies(lost: float, gained: float, n: int, trials: int) -> tuple[float, float]:
    drawn = np.random.default_rng(n).multinomial(n, [lost, gained, 1 - lost - gained], size=trials)
    counts, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    covered = rejected = 0
    for (down, up), often in zip(counts, times, strict=True):
        bounds = paired_difference_interval(int(down), int(up), n)
        covered += often * (float(bounds.sel(value="low")) <= gained - lost <= float(bounds.sel(value="high")))
        before = xr.DataArray(np.arange(n) < down, dims="problem")
        after = xr.DataArray((np.arange(n) >= down) & (np.arange(n) < down + up), dims="problem")
        rejected += often * (float(mcnemar(before, after)["p"]) <= simulations.LEVEL)
    return covered / trials, rejected / trials


def _populations(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Populations (member, problem) of effects: made up, and of cuts of the bundled models."""
    rng = np.random.default_rng(0)
    made = np.stack([make(rng, (100_000,)) for make in simulations.POPULATIONS.values()])
    real = []
    for model in ("tiny-gpt2", "tiny-llama"):
        reasoner = tl.load(model)
        run = tl.extract(reasoner, tl.sample("arithmetic", n=800, seed=7), folder / model)
        plan = tl.plan_cuts(run, heads="all", edges="all", reasoner=reasoner)
        effects = tl.intervene(run, plan, study="population", reasoner=reasoner)
        real.append(paired_differences(effects)[RANKED_BY].transpose("intervention", "problem").values)
    effects = np.concatenate(real)
    return made, effects[np.isfinite(effects).all(-1) & (effects.std(-1) > 1e-3)]


def _moved(population: np.ndarray, mean: float) -> np.ndarray:
    """Each member with that mean, the same number added to all problems."""
    moved: np.ndarray = population - population.mean(-1, keepdims=True) + mean
    return moved


def _samples(population: np.ndarray, n: int, rounds: int) -> Iterator[tuple[int, float, xr.DataArray]]:
    """Some rounds for each member: number of the round, the member's mean, and samples (problem, sample) of it."""
    rng = np.random.default_rng(n)
    for member in population:
        for trial in range(rounds):
            drawn = rng.choice(member, size=(n, AT_ONCE))
            yield trial, float(member.mean()), xr.DataArray(drawn, dims=("problem", "sample"))


def _covered(population: np.ndarray, n: int, rounds: int) -> list[float]:
    """How often the interval holds the mean, samples with a warning left out; and how often there is a warning."""
    held, warned = [], []
    for trial, mean, values in _samples(population, n, rounds):
        bounds = bootstrap_t(values, seed=trial)
        held.append(((bounds.sel(value="low") <= mean) & (bounds.sel(value="high") >= mean)).values)
        warned.append(effective_size(values.values) < FEWEST_CARRYING)
    inside, few = np.concatenate(held), np.concatenate(warned)
    return [float(inside[~few].mean()) if not few.all() else float("nan"), float(few.mean())]


def _none_said(population: np.ndarray, n: int, rounds: int) -> list[float]:
    """How often 'no effect' is said of each member, whose effect is as large as the margin."""
    said = [equivalent_means(values, MARGIN, seed=trial).values for trial, _, values in _samples(population, n, rounds)]
    return [float(np.mean(said[start : start + rounds])) for start in range(0, len(said), rounds)]


def _row(name: str, numbers: Iterable[float]) -> str:
    return f"  {name:24}" + " | ".join(f"{number:.3f}" for number in numbers)


TABLES: Final[dict[str, Callable[[int, Path], Iterator[str]]]] = {
    "means": tests_of_means,
    "hubs": tests_of_hubs,
    "verdicts": tests_of_verdicts,
    "effects": effects_of_cuts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=list(TABLES), help="means, hubs, …; all")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.tables:
            print(f"\n{name}: {TABLES[name].__doc__}", flush=True)
            for line in TABLES[name](asked.trials, asked.folder or Path(temporary)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
