"""The scorecard of methods: how well each way of ranking heads, edges and units finds what a model needs.

In: models with problems, some of them with a circuit that is known; out: scores with intervals over problems.

1. One set of problems ranks: by attention, by attention beyond its null, by value-weighted attention, by rollout, and
   by what each edit costs when it is made on one unit alone, or on two heads of a layer together. Units are all
   heads; or all edges, from `eot`, `answer` and each thought to every earlier thought; or, where a family names groups
   of prompt tokens, all units: a head's edge from a thought or `eot` to a group or slot.
2. Where the circuit is known, a ranking is scored by AUROC: the chance that a unit of the circuit stands above one that
   is not in it, ties counting half. Range 0-1; 0.5 is a ranking that knows nothing.
3. Where it is not, a second set of problems scores: the k first units are kept and all others are cut together, heads
   by another problem's output, edges by blocking. f(k) = (m(k) − m(0)) / (m(all) − m(0)), m being the mean
   log-probability of the right answer. CPR = ∫ f over the share of units that is kept, the larger the better;
   CMD = ∫ |1 − f|, the smaller the better (trapezoids over k = 0, 1, … all units). `random` is the mean of five random
   orders.

Reference for CPR and CMD: Mueller et al. (2025), MIB: A Mechanistic Interpretability Benchmark, arXiv 2504.13151.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.attention_against_effects import head_importance
from thoughtlens.analysis.attention_measures import rollout
from thoughtlens.analysis.effects import RANKED_BY
from thoughtlens.analysis.intervals import interval, resample_weights, weighted_sums
from thoughtlens.analysis.nulls import causal_uniform
from thoughtlens.analysis.streamed_attention import VALUES, WEIGHTS, patterned
from thoughtlens.cuts.cut_types import Cut, ablate_head, cut, knock_out, zero_value_edge
from thoughtlens.cuts.edits import Edit, Mean, Noise, Resample, Zero
from thoughtlens.cuts.plan import Plan, shape_of
from thoughtlens.cuts.study import intervene
from thoughtlens.errors import OptionError
from thoughtlens.evaluation.thought_readings import group_attention
from thoughtlens.files import write_table
from thoughtlens.models.compiled_circuit import circuit
from thoughtlens.models.loader import load
from thoughtlens.models.planted import PLANTED, Strengths, planted_problems, planted_reasoner
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.notation import (
    ANSWER,
    EDGES,
    EOT,
    HEADS,
    MAX_THOUGHTS,
    edge_name,
    edge_names,
    head_name,
    head_place,
    text,
    thought_names,
)
from thoughtlens.plots.comparison import Words, draw_models
from thoughtlens.plots.style import save_figure
from thoughtlens.problems import Problem, sample
from thoughtlens.runs.extraction import extract
from thoughtlens.runs.reader import Run
from thoughtlens.schema import BASELINE, with_all_slots

ATTENTION: Final = "attention"
EXCESS: Final = "excess attention"
VALUE_WEIGHTED: Final = "value-weighted"
ROLLOUT: Final = "rollout"
VALUE_ROLLOUT: Final = "value-weighted rollout"
RANDOM: Final = "random"
N_RANDOM: Final = 5
"""Random orders, whose mean is what a ranking that knows nothing reaches."""
EDITS: Final[Mapping[str, Edit]] = {"zero": Zero(), "mean": Mean(), "resample": Resample(), "noise": Noise()}
"""Edits of one head, each a ranking of heads."""
JOINT: Final = "joint zero"
"""The ranking by zeroing two heads of a layer together: a head's largest effect beyond its partner's."""
UNITS: Final = "units"
EDGE_CUTS: Final[Mapping[str, Callable[..., Cut]]] = {"block": knock_out, "zero": zero_value_edge}
"""Cuts of one edge, each a ranking of edges: before the softmax, and after it."""

Order = tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A model on which methods are scored.

    Attributes:
        name: as the scorecard calls it.
        reasoner: makes the model.
        problems: gives so many problems for a seed.
        heads: the heads of its circuit, such as `L0H3`; None where the circuit is not known.
        edges: the edges of its circuit, such as `answer ⊣ z6`; None where it is not known.
        units: the units of its circuit, such as `z1 ⊣ sep, L1H1`; None where they are not ranked.
        most: problems that rank and score at most, where they hardly differ and there are many units.
    """

    name: str
    reasoner: Callable[[], LatentReasoner]
    problems: Callable[[int, int], Sequence[Problem]]
    heads: frozenset[str] | None = None
    edges: frozenset[str] | None = None
    units: frozenset[str] | None = None
    most: int | None = None

    @property
    def known(self) -> bool:
        """Whether its circuit is known."""
        return self.heads is not None


def _planted(name: str, strengths: Strengths) -> Subject:
    return Subject(
        name,
        lambda: planted_reasoner(strengths),
        lambda n, seed: planted_problems(n, seed=seed),
        heads=frozenset({head_name(*PLANTED["carrier"])}),
        edges=frozenset({edge_name(ANSWER, "z6")}),
    )


def _compiled(name: str, *, twin: bool) -> Subject:
    truth = circuit(twin=twin)
    return Subject(
        name,
        lambda: load("compiled-twin" if twin else "compiled", dtype="float32"),
        lambda n, seed: sample("graphs", n=n, seed=seed),
        heads=truth["heads"],
        units=truth["units"],
        most=12,
    )


def _bundled(name: str) -> Subject:
    return Subject(name, lambda: load(name), lambda n, seed: sample("arithmetic", n=n, seed=seed))


SUBJECTS: Final = (
    _planted("planted, weak distractors", Strengths(hub=0.3, sequential=0.25, skip=0.5, sink=0.5)),
    _planted("planted", Strengths()),
    _planted("planted, strong distractors", Strengths(hub=0.99, sequential=0.99, skip=0.99, sink=0.99)),
    _compiled("compiled", twin=False),
    _compiled("compiled, with twin", twin=True),
    _bundled("tiny-gpt2"),
    _bundled("tiny-llama"),
)
"""The models of the scorecard. In the planted ones a single head moves the answer, and it reads the last thought alone;
their other heads attend strongly to thoughts, by these strengths, and carry nothing. Of the compiled ones what is
scored is what carries something from thoughts and `[A]` (`thoughtlens.models.circuit`): what acts in the question's
pass alone can't be cut."""


class Scorecard(NamedTuple):
    """How well methods find what models need.

    Attributes:
        scores: a row a score: model, units (heads, edges), ranking, score (AUROC, CPR, CMD), estimate, low, high (95 %
            bootstrap over problems), n (problems), n_units.
        curves: a row a circuit: model, units, ranking, k (units kept), share (k over all units), f and n.
    """

    scores: pd.DataFrame
    curves: pd.DataFrame


def scorecard(
    out: str | Path,
    *,
    subjects: Iterable[Subject] = SUBJECTS,
    n: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
) -> Scorecard:
    """Score every way of ranking heads, edges and units, and write the scores as a table and a figure.

    Args:
        out: the folder, made if it is not there: `scorecard.csv`, `curves.csv`, `scorecard.png`, `.svg` and `.pdf`,
            and under `runs/` the runs and studies that the scores are made of, which are used again by the same call.
        subjects: the models.
        n: problems that rank, and as many others that score; at least 2.
        seed: of both draws.
        progress: called with the name of each stage when it begins.

    Returns:
        The scores and the curves.

    Raises:
        OptionError: n is below 2.
        RunError: the folder holds runs of other options, or can't be written.

    Example:
        `scorecard("scores", n=100).scores.query("score == 'AUROC'")`
    """
    if n < 2:
        raise OptionError(f"the number of problems is {n}, expected at least 2; pass another --n.")
    out, found = Path(out), []
    for subject in subjects:
        progress(subject.name)
        found.append(_score(out / "runs" / _folder(subject.name), subject, n, seed))
    scores, curves = (pd.concat([part[which] for part in found], ignore_index=True) for which in (0, 1))
    for name, table in (("scorecard.csv", scores), ("curves.csv", curves)):
        write_table(out / name, table)
    save_figure(
        draw_models(_drawn(scores), title="Which method finds what the model needs", words=_WORDS), out / "scorecard"
    )
    return Scorecard(scores, curves)


def _folder(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _score(folder: Path, subject: Subject, n: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores and curves of one model."""
    n = n if subject.most is None else min(n, subject.most)
    reasoner, problems = subject.reasoner(), subject.problems(2 * n, seed)
    ranking = extract(reasoner, problems[:n], folder / "ranking", record=["values"])
    importances = {HEADS: head_rankings(ranking) | by_cause(ranking, reasoner, single_heads(ranking), HEADS)}
    if subject.known:
        importances[HEADS] |= by_joint_cause(ranking, reasoner)
    if subject.edges is not None or not subject.known:
        importances[EDGES] = edge_rankings(ranking) | by_cause(ranking, reasoner, _single_edges(ranking), EDGES)
    if subject.units is not None:
        attention = group_attention(reasoner, problems[:n])
        cuts = _single_units(_units_of(attention))
        importances[UNITS] = unit_rankings(attention) | by_cause(ranking, reasoner, cuts, UNITS)
    scores, curves = [], []
    scoring = None if subject.known else extract(reasoner, problems[n:], folder / "scoring")
    for units, rankings in importances.items():
        shown = {"model": subject.name, "units": units}
        if scoring is None:
            truth = {HEADS: subject.heads, EDGES: subject.edges, UNITS: subject.units}[units]
            scores += [shown | row for row in _auroc_rows(rankings, truth or frozenset())]
            continue
        orders = {name: ordered(importance) for name, importance in rankings.items()}
        kept = kept_means(scoring, reasoner, orders | _random_orders(orders[ATTENTION], seed), units)
        kept[RANDOM] = xr.concat([kept.pop(name) for name in list(kept) if name not in orders], "draw").mean("draw")
        for name, means in kept.items():
            f = recovered(means)
            facts = shown | {"ranking": name, "n": n}
            scores += [facts | {"n_units": len(f["k"]) - 1} | row for row in _circuit_rows(f)]
            curve = f.isel(resample=0).to_numpy()
            curves += [facts | {"k": k, "share": k / (len(curve) - 1), "f": value} for k, value in enumerate(curve)]
    columns = ["model", "units", "ranking", "score", "estimate", "low", "high", "n", "n_units"]
    return pd.DataFrame(scores, columns=columns), pd.DataFrame(
        curves, columns=["model", "units", "ranking", "k", "share", "f", "n"]
    )


def head_rankings(run: Run) -> dict[str, xr.DataArray]:
    """Importance of each head by what attention shows: (problem, unit) a ranking."""
    found: dict[str, list[xr.DataArray]] = {}
    for name, block in _blocks(run):
        found.setdefault(name, []).append(head_importance(block))
    return {name: xr.concat(parts, "problem") for name, parts in found.items()}


def edge_rankings(run: Run) -> dict[str, xr.DataArray]:
    """Importance of each edge by what attention shows: (problem, unit) a ranking."""
    found: dict[str, list[xr.DataArray]] = {}
    for name, block in _blocks(run):
        found.setdefault(name, []).append(_edge_cells(block.mean(("layer", "head"), skipna=False)))
        if name in _ROLLED:
            found.setdefault(_ROLLED[name], []).append(_edge_cells(rollout(block)))
    return {name: xr.concat(parts, "problem") for name, parts in found.items()}


def unit_rankings(found: xr.Dataset) -> dict[str, xr.DataArray]:
    """Importance of each unit by what attention to groups shows, of `group_attention`: (problem, unit) a ranking."""
    seen = [[_sees(query, key) for key in found["key"].values] for query in found["query"].values]
    n_seen = found["n_tokens"] * xr.DataArray(seen, dims=("query", "key"))
    even = n_seen / n_seen.sum("key")
    weights = found["attention"].astype(np.float64)
    given = found["value_weighted"].astype(np.float64)
    total = given.sum("key")
    rankings = {
        ATTENTION: weights,
        EXCESS: weights - even,
        VALUE_WEIGHTED: (given / total.where(total > 0)).fillna(0.0),
    }
    units = _units_of(found)
    return {name: _unit_cells(importance, units) for name, importance in rankings.items()}


def _sees(query: object, key: object) -> bool:
    """Whether a query can see a key: a part of the prompt, or a thought or marker that does not come after it."""
    later = [*thought_names(MAX_THOUGHTS), EOT]
    return key not in later or later.index(str(key)) <= later.index(str(query))


def _units_of(found: xr.Dataset) -> list[tuple[str, str, int, int]]:
    """Query, key, layer and head of every unit there is."""
    edges = [(str(q), str(k)) for q in found["query"].values for k in found["key"].values if _sees(q, k)]
    there = {str(key) for key in found["key"].values[(found["n_tokens"] > 0).any("problem").values]}
    places = [(layer, head) for layer in range(found.sizes["layer"]) for head in range(found.sizes["head"])]
    return [(*edge, *place) for place in places for edge in edges if edge[1] in there]


def _unit_name(query: str, key: str, layer: int, head: int) -> str:
    return f"{edge_name(query, key)}, {head_name(layer, head)}"


def _unit_cells(importance: xr.DataArray, units: Sequence[tuple[str, str, int, int]]) -> xr.DataArray:
    """The cells of these units: (problem, unit)."""
    places = [xr.DataArray(list(of), dims="unit") for of in zip(*units, strict=True)]
    cells = importance.sel(dict(zip(("query", "key"), places[:2], strict=True)))
    cells = cells.isel(dict(zip(("layer", "head"), places[2:], strict=True))).drop_vars(["query", "key"])
    return cells.assign_coords(unit=text([_unit_name(*unit) for unit in units])).transpose("problem", "unit")


def _random_orders(order: Order, seed: int) -> dict[str, Order]:
    """Orders that know nothing, to compare with."""
    rng = np.random.default_rng(seed)
    return {f"{RANDOM} {draw}": tuple(map(str, rng.permutation(np.array(order)))) for draw in range(N_RANDOM)}


_ROLLED = {ATTENTION: ROLLOUT, VALUE_WEIGHTED: VALUE_ROLLOUT}


def _blocks(run: Run) -> Iterable[tuple[str, xr.DataArray]]:
    """What attention shows of some problems at a time, by the name of the ranking."""
    for block, valued in zip(patterned(run, WEIGHTS), patterned(run, VALUES), strict=True):
        weights = with_all_slots(block["attention"]).astype(np.float64)
        yield ATTENTION, weights
        yield EXCESS, weights - causal_uniform(weights, block["n_question_tokens"])
        # A row that moves nothing at all has no shares: as a way of ranking, it carries nothing.
        yield VALUE_WEIGHTED, with_all_slots(valued["attention"]).fillna(0.0).where(weights.notnull())


def edges_of(n_thoughts: int) -> list[tuple[str, str]]:
    """Every edge to a thought: from each later thought, from `eot` and from `answer`."""
    return [*edge_names(n_thoughts), *((query, key) for query in (EOT, ANSWER) for key in thought_names(n_thoughts))]


def _edge_cells(attention: xr.DataArray) -> xr.DataArray:
    edges = edges_of(sum(str(name).startswith("z") for name in attention["key"].values))
    queries, keys = (xr.DataArray([edge[end] for edge in edges], dims="unit") for end in (0, 1))
    cells = attention.sel(query=queries, key=keys).drop_vars(["query", "key"])
    return cells.assign_coords(unit=text([edge_name(*edge) for edge in edges])).transpose("problem", "unit")


def single_heads(run: Run) -> dict[str, dict[str, Cut]]:
    """The cuts of each head alone, by ranking."""
    names = [head_name(layer, head) for layer in range(shape_of(run).n_layers) for head in range(shape_of(run).n_heads)]
    return {by: {name: ablate_head(name, edit=edit) for name in names} for by, edit in EDITS.items()}


def _single_edges(run: Run) -> dict[str, dict[str, Cut]]:
    edges = edges_of(shape_of(run).n_thoughts)
    return {by: {edge_name(*edge): make(*edge) for edge in edges} for by, make in EDGE_CUTS.items()}


def by_cause(
    run: Run, reasoner: LatentReasoner, cuts: Mapping[str, Mapping[str, Cut]], units: str
) -> dict[str, xr.DataArray]:
    """What each cut of a single unit takes from the log-probability of the right answer: (problem, unit) a ranking."""
    plan = Plan(tuple(cut for of_ranking in cuts.values() for cut in of_ranking.values()))
    outcome = intervene(run, plan, study=f"single-{units}", reasoner=reasoner)[RANKED_BY].reset_coords(drop=True)
    loss = outcome.sel(intervention=BASELINE, drop=True) - outcome
    found = {}
    for by, of_ranking in cuts.items():
        of_units = loss.sel(intervention=[cut.label for cut in of_ranking.values()]).rename(intervention="unit")
        found[by] = of_units.assign_coords(unit=text(of_ranking)).transpose("problem", "unit")
    return found


def _single_units(units: Sequence[tuple[str, str, int, int]]) -> dict[str, dict[str, Cut]]:
    return {
        by: {_unit_name(*unit): make(*unit[:2], layers=[unit[2]], heads=[unit[3]]) for unit in units}
        for by, make in EDGE_CUTS.items()
    }


def by_joint_cause(run: Run, reasoner: LatentReasoner) -> dict[str, xr.DataArray]:
    """Each head's largest effect beyond its partner's: max over the others of its layer of loss(both) − loss(other).

    The partner is found on the means over problems; (problem, unit).
    """
    cuts = single_heads(run)["zero"]
    pairs = [pair for pair in combinations(cuts, 2) if head_place(pair[0])[0] == head_place(pair[1])[0]]
    both = {pair: cut(*cuts[pair[0]].parts, *cuts[pair[1]].parts, label=" + ".join(pair)) for pair in pairs}
    plan = Plan((*cuts.values(), *both.values()))
    outcome = intervene(run, plan, study="joint-heads", reasoner=reasoner)[RANKED_BY].reset_coords(drop=True)
    loss = outcome.sel(intervention=BASELINE, drop=True) - outcome
    beyond: dict[str, list[xr.DataArray]] = {name: [] for name in cuts}
    for pair, made in both.items():
        for name, partner in (pair, pair[::-1]):
            alone = loss.sel(intervention=cuts[partner].label, drop=True)
            beyond[name].append(loss.sel(intervention=made.label, drop=True) - alone)
    largest = [max(its, key=lambda effect: float(effect.mean())) for its in beyond.values()]
    return {JOINT: xr.concat(largest, "unit").assign_coords(unit=text(beyond)).transpose("problem", "unit")}


def mean_importance(importance: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Means over the problems in which a unit exists, in every resample: (resample, unit)."""
    there = importance.notnull()
    total = weighted_sums(importance.fillna(0.0).drop_vars("problem", errors="ignore"), weights)
    return total / weighted_sums(there.drop_vars("problem", errors="ignore"), weights)


def ordered(importance: xr.DataArray) -> Order:
    """The units by their mean importance, largest first; of equal ones the earlier."""
    mean = importance.mean("problem")
    return tuple(str(mean["unit"].values[place]) for place in np.argsort(-mean.values, kind="stable"))


def auroc(importance: np.ndarray, in_circuit: np.ndarray) -> np.ndarray:
    """The chance that a unit of the circuit stands above another, ties counting half, over the last axis.

    AUROC = (Σ ranks of the circuit − m (m + 1) / 2) / (m (N − m)), ranks from 1 with ties at their mean.
    """
    m, n = int(in_circuit.sum()), in_circuit.size
    ranks = rankdata(importance, axis=-1)[..., in_circuit].sum(-1)
    score: np.ndarray = (ranks - m * (m + 1) / 2) / (m * (n - m))
    return score


def _auroc_rows(rankings: Mapping[str, xr.DataArray], truth: frozenset[str]) -> list[dict[str, object]]:
    rows = []
    for name, importance in rankings.items():
        weights = resample_weights(importance.sizes["problem"])
        in_circuit = np.array([str(unit) in truth for unit in importance["unit"].values])
        # Importances that differ by less than half precision stores are equal.
        means = mean_importance(importance, weights).round(4)
        found = means.isel(unit=0, drop=True).copy(data=auroc(means.values, in_circuit))
        facts = {"ranking": name, "score": "AUROC", "n": importance.sizes["problem"], "n_units": in_circuit.size}
        rows.append(facts | _numbers(found))
    return rows


def kept_means(run: Run, reasoner: LatentReasoner, orders: Mapping[str, Order], units: str) -> dict[str, xr.DataArray]:
    """Mean log-probability of the right answer with the first k units kept and all others cut: (resample, k)."""
    single = single_heads(run)["resample"] if units == HEADS else _single_edges(run)["block"]
    circuits = {frozenset(order[:k]) for order in orders.values() for k in range(len(order))}
    cuts = {
        kept: cut(*(part for name, one in single.items() if name not in kept for part in one.parts), label=label)
        for kept, label in zip(circuits, _labels(circuits), strict=True)
    }
    plan = Plan(tuple(sorted(cuts.values(), key=lambda made: made.label)))
    outcome = intervene(run, plan, study=f"circuits-{units}", reasoner=reasoner)[RANKED_BY].reset_coords(drop=True)
    weights = resample_weights(outcome.sizes["problem"])
    means = weighted_sums(outcome.drop_vars("problem"), weights) / weights.sum("problem")
    labels = {kept: made.label for kept, made in cuts.items()}
    found = {}
    for name, order in orders.items():
        along = [*(labels[frozenset(order[:k])] for k in range(len(order))), BASELINE]
        found[name] = means.sel(intervention=along).rename(intervention="k").assign_coords(k=range(len(along)))
    return found


def _labels(circuits: Iterable[frozenset[str]]) -> list[str]:
    return ["only " + (", ".join(sorted(kept)) or "none") for kept in circuits]


def recovered(means: xr.DataArray) -> xr.DataArray:
    """f(k) = (m(k) − m(0)) / (m(all) − m(0)): 0 with nothing kept, 1 with everything. Same dims."""
    none, whole = means.isel(k=0, drop=True), means.isel(k=-1, drop=True)
    return (means - none) / (whole - none)


def _circuit_rows(f: xr.DataArray) -> list[dict[str, object]]:
    share = f.assign_coords(k=f["k"] / f["k"].max())
    areas = {"CPR": share.integrate("k"), "CMD": abs(1.0 - share).integrate("k")}
    return [{"score": name, **_numbers(area)} for name, area in areas.items()]


def _numbers(resampled: xr.DataArray) -> dict[str, float]:
    bounds = interval(resampled)
    return {name: float(bounds.sel(value=name)) for name in ("estimate", "low", "high")}


_WORDS: Final = {
    "AUROC_heads": Words("ranking of heads", "AUROC, heads: 0.5 is chance", "AUROC", True),
    "AUROC_units": Words("ranking of units", "AUROC, units: 0.5 is chance", "AUROC", True),
    "AUROC_edges": Words("ranking of edges", "AUROC, edges: 0.5 is chance", "AUROC", True),
    "CPR_heads": Words("ranking of heads", "CPR, heads: larger is better", "CPR", True),
    "CPR_edges": Words("ranking of edges", "CPR, edges: larger is better", "CPR", True),
    "CMD_heads": Words("ranking of heads", "CMD, heads: smaller is better", "CMD", True),
    "CMD_edges": Words("ranking of edges", "CMD, edges: smaller is better", "CMD", True),
}


def _drawn(scores: pd.DataFrame) -> xr.Dataset:
    """The scores as `draw_models` takes them."""
    named = ["model", "units", "ranking", "score"]
    numbers = ["estimate", "low", "high"]
    long = scores.melt(id_vars=named, value_vars=numbers, var_name="value", value_name="number")
    found = {}
    models = list(dict.fromkeys(scores["model"]))
    for (score, units), rows in long.groupby(["score", "units"], sort=False):
        rankings = list(dict.fromkeys(rows["ranking"]))
        cells = rows.set_index(["model", "ranking", "value"])["number"]
        array = cells.to_xarray().reindex(model=models, ranking=rankings, value=numbers)
        found[f"{score}_{units}"] = array.rename(ranking=f"ranking of {units}")
    n = scores.groupby("model", sort=False)["n"].first()
    return xr.Dataset(found).assign(n=("model", n.loc[models].to_numpy()))
