"""The data of a report's page: text and statistics of a run as JSON, and its maps as packed arrays.

In: a run and its analysis. Out: `Shown`, whose JSON stands once in the page, and whose blocks stand beside it under
their names: arrays of little-endian numbers, row by row, deflated and written in base64.

    maps-KIND  uint16 (value, unit, cell)  mean, low, high of each head, of each layer's mean head, and of the mean head
    H          float32 (head, thought, value)  preference for each thought, NaN where it is undefined
    p0, p1, …  uint8 (unit, cell)  one problem: the heads that are kept for single problems, then the mean head
    cuts-NAME  uint8 (cut, problem)  what each cut of a study did to each problem (`OUTCOME_CODES`)
    t0, t1, …  JSON: the tokens of its question, attention to each, and what each thought can be read as

A *cell* is a query and a key that it can see: cells that the causal mask forbids are left out. `STEPS` says how finely
numbers of a map are kept; the code after the last step means undefined.

Studies of cuts have a JSON object each (`facts_of`), the newest first: effects, tests, curves and verdicts. Names of
outcomes are those of the effects Dataset; an effect is the value with the cut less the value without, so that a loss is
negative.
"""

import base64
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import t as student

from thoughtlens.analysis import Analysis, moments
from thoughtlens.analysis.cautions import LEAST_SHOWN
from thoughtlens.analysis.effects import RANKED_BY, TESTED, Study, controls_of, doses
from thoughtlens.analysis.effects_by_design import curve_of, dose_response
from thoughtlens.analysis.heads import TYPES, unreliable
from thoughtlens.analysis.intervals import CONFIDENCE
from thoughtlens.analysis.nulls import MASSES, PATTERNS, PLACES
from thoughtlens.analysis.streamed_attention import VALUES, WEIGHTS, Blocks, in_pieces, patterned
from thoughtlens.cuts import studies
from thoughtlens.errors import RunError
from thoughtlens.files import Json
from thoughtlens.models.catalog import bundled, read_card
from thoughtlens.notation import head_name, key_names, query_names
from thoughtlens.reports.study_files import kind_of, shown_of, study, study_headline
from thoughtlens.runs.reader import STUDIES, Run, chosen_problems
from thoughtlens.schema import BASELINE, EFFECTS_STORE, VALUE_WEIGHTED, with_all_slots

ALL_HEADS: Final = 64
"""Heads up to which a single problem's map of each is kept; of a larger model, those of the first by attention."""

FIRST_HEADS: Final = 32

LONGEST: Final = 4000
"""Characters of a text that are kept; a model that never stops writes many times as many."""

STEPS: Final = {"uint8": 254, "uint16": 65534}
"""Into how many steps the range 0 to 1 is divided; the next code means undefined."""

ROLLED_OUT: Final = "rollout"

KINDS: Final = {
    WEIGHTS: ("Attention", "The share of a row's attention that goes to each position."),
    VALUES: ("Value-weighted", "The share of what a row moves, by the size of each position's value."),
    ROLLED_OUT: ("Rolled out", "Attention followed through all layers and from thought to thought; of all heads."),
}

SIZES: Final = {
    "thought_mass": ("Attention to earlier thoughts", "Mean share of a row, z2 and later, that goes to thoughts.", 0),
    "largest_preference": (
        "Preference for one thought, H",
        "What the preferred thought gets, over its even share. 1 is no preference; that it is above 1 proves no hub.",
        1,
    ),
    "importance": (
        "Importance by attention",
        "Attention to earlier thoughts, times H − 1. It says where a head looks, not what it does.",
        0,
    ),
}
"""Sizes of heads: label, meaning, and the value without structure."""

BEYOND: Final = {
    "hub": "the strongest thought",
    "sequential": "the thought before",
    "skip": "the first half of the thoughts, from the last",
    "sink": "the first token",
    "self": "the thought itself",
    "readout": "all thoughts, from eot and the answer",
    "thoughts": "earlier thoughts",
    "question": "the question without its first token",
    "bot": "the opening marker",
}
"""To what the attention goes that is set against a null, by the name of the evidence."""


class Shown(NamedTuple):
    """One run as a page shows it."""

    facts: Json
    """what stands in the page's JSON: no NaN, four significant digits"""
    blocks: dict[str, str]
    """packed arrays by name"""


def data_of(run: Run, analysis: Analysis, readings: Mapping[str, Any]) -> Shown:
    """What the page shows of a run beside its sentences; `readings` is its `readings.json`, or empty."""
    n_thoughts = int(run.manifest["layout"]["n_thoughts"])
    cells = cells_of(n_thoughts)
    ranked = [str(name) for name in analysis.ranking["name"].values]
    names = [
        head_name(layer, head) for layer in analysis.heads["layer"].values for head in analysis.heads["head"].values
    ]
    kept = names if len(names) <= ALL_HEADS else ranked[:FIRST_HEADS]
    chosen = chosen_problems(int(run.manifest["layout"]["n_problems"]))
    maps = dict(_maps(run, analysis, cells))
    blocks = {f"maps-{kind}": packed(quantised(values, "uint16")) for kind, values in maps.items()}
    blocks["H"] = packed(_preference(analysis).astype("<f4"))
    blocks |= _problem_blocks(run, chosen, [names.index(name) for name in kept], cells)
    problems = _problems(run, chosen)
    for place, problem in enumerate(problems):
        if problem["id"] in readings.get("problems", {}):
            of_problem = json.dumps(clean(readings["problems"][problem["id"]]), ensure_ascii=False, allow_nan=False)
            blocks[f"t{place}"] = packed(of_problem.encode())
    studies = studies_of(run, [problem["id"] for problem in problems])
    blocks |= {f"cuts-{name}": packed(of_study) for name, of_study in studies.codes.items()}
    facts: Json = {
        "model": model_name(run),
        "set": str(run.manifest["options"]["problems"]["name"]),
        "n": int(run.manifest["layout"]["n_problems"]),
        "T": n_thoughts,
        "L": analysis.heads.sizes["layer"],
        "H": analysis.heads.sizes["head"],
        "queries": query_names(n_thoughts),
        "keys": key_names(n_thoughts),
        "cells": cells,
        "names": names,
        "kept": [names.index(name) for name in kept],
        "ranked": [names.index(name) for name in ranked],
        "unreliable": unreliable(analysis.ranking),
        "types": list(TYPES),
        "maps": [{"id": kind, "label": KINDS[kind][0], "help": KINDS[kind][1]} for kind in maps],
        "measures": list(_measures(analysis, names)),
        "hubs": _hubs(analysis, names),
        "problems": problems,
        "chosen": "All problems of the run." if len(chosen) == run.manifest["layout"]["n_problems"] else (
            f"{len(chosen)} problems at equal distances in the order of the run's "
            f"{run.manifest['layout']['n_problems']:,}."
        ),
        "read": bool(readings.get("problems")),
        "single": not run.keeps_means,
        "studies": studies.facts,
        "unreadable": studies.unreadable,
    }  # fmt: skip
    return Shown(clean(facts), blocks)


def model_name(run: Run) -> str:
    """The model as it was named; of an absolute path the last part, since the rest is somebody's machine."""
    name = str(run.manifest["options"]["model"]["name"])
    return PurePath(name).name if PurePath(name).is_absolute() else name


def card_of(run: Run) -> Json | None:
    """The card of a bundled model; None of others, also of one whose weights were drawn at random."""
    name = str(run.manifest["options"]["model"]["name"])
    return read_card(name) if name in bundled() else None


def cells_of(n_thoughts: int) -> list[list[int]]:
    """Query and key of each cell that the causal mask allows, row by row, as places on their axes."""
    n_queries = len(query_names(n_thoughts))
    return [[query, key] for query in range(n_queries) for key in range(query + 3)]


def packed(values: npt.NDArray[Any] | bytes) -> str:
    """An array, or bytes, as the text of a block."""
    raw = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def quantised(values: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """Numbers from 0 to 1 in steps (`STEPS`), little-endian; what is undefined has the code after the last step."""
    steps = STEPS[kind]
    codes = np.round(np.clip(np.nan_to_num(values), 0.0, 1.0) * steps)
    return np.where(np.isfinite(values), codes, steps + 1).astype(np.dtype(kind).newbyteorder("<"))


def clean(value: Any) -> Any:
    """JSON without NaN, in four significant digits, which is more than a page shows."""
    if isinstance(value, Mapping):
        return {str(name): clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [clean(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    return value


def _maps(run: Run, analysis: Analysis, cells: Sequence[Sequence[int]]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Mean and interval of each unit and cell, (value, unit, cell), of each kind of attention that the run has."""
    heads = analysis.moments
    if run.keeps_means:
        # Only the means of layers follow from sums of single heads.
        layers = heads["mean"].mean("head", skipna=False)
        mean = xr.concat([layers, layers.mean("layer", skipna=False).assign_coords(layer=-1)], "layer")
        of_heads, of_means = _bounds(heads), np.full((3, *mean.shape), np.nan)
        of_means[0] = mean.transpose("layer", "query", "key").values
    else:
        of_heads, of_means = _bounds(heads), _bounds(moments(_mean_heads(run.blocks())))
    yield WEIGHTS, _units(of_heads, of_means, cells)
    if not run.keeps_means and VALUE_WEIGHTED in run.attention:
        weighted = moments(piece["attention"] for piece in in_pieces(patterned(run, VALUES)))
        of_means = _bounds(moments(_mean_heads(patterned(run, VALUES))))
        yield VALUES, _units(_bounds(weighted), of_means, cells)
    rolled = analysis.rollout["rollout"].transpose("value", "query", "key").values[:, None]
    yield ROLLED_OUT, _in_cells(rolled, cells)


def _mean_heads(blocks: Blocks) -> Iterator[xr.DataArray]:
    """The mean head of each layer and, last, of the model, problem by problem."""
    for piece in in_pieces(blocks):
        layers = piece["attention"].mean("head", skipna=False)
        model = layers.mean("layer", skipna=False).expand_dims(layer=[-1])
        yield xr.concat([layers, model], "layer", coords="minimal", compat="override", join="outer")


def _bounds(found: xr.Dataset) -> npt.NDArray[Any]:
    """Mean, low and high of each cell, (value, …, query, key): mean ± t · sd / √n over problems, within 0 and 1."""
    mean, n = found["mean"], found["n"]
    # sd is that of these problems; of those that they were drawn from it is larger by n / (n − 1).
    error = found["sd"] / np.sqrt((n - 1).where(n > 1).astype(np.float64))
    level = student.ppf((1.0 + CONFIDENCE) / 2.0, np.maximum(n.values - 1, 1))
    reach = error * n.astype(np.float64).copy(data=level)
    order = [dim for dim in ("layer", "head", "query", "key") if dim in mean.dims]
    # Of fewer problems no interval is shown.
    reach = reach.where(n >= LEAST_SHOWN)
    return np.stack([
        values.transpose(*order).values for values in (mean, (mean - reach).clip(0, 1), (mean + reach).clip(0, 1))
    ])  # fmt: skip


def _units(heads: npt.NDArray[Any], means: npt.NDArray[Any], cells: Sequence[Sequence[int]]) -> npt.NDArray[Any]:
    flat = heads.reshape(3, -1, *heads.shape[-2:])
    return _in_cells(np.concatenate([flat, means], axis=1), cells)


def _in_cells(values: npt.NDArray[Any], cells: Sequence[Sequence[int]]) -> npt.NDArray[Any]:
    queries, keys = np.array(cells).T
    return values[..., queries, keys]


def _preference(analysis: Analysis) -> npt.NDArray[Any]:
    values = analysis.heads["preference"].transpose("layer", "head", "thought", "value").values
    flat: npt.NDArray[Any] = values.reshape(-1, *values.shape[2:])
    return flat


def _measures(analysis: Analysis, names: Sequence[str]) -> Iterator[Json]:
    """What the grid of heads can be coloured by: estimate, low and high of each head, and its null, or q if tested."""
    for name, (label, meaning, null) in SIZES.items():
        sizes = _by_head(analysis.heads[name].transpose("layer", "head", "value").values)
        # What chance makes of the largest of several preferences is above 1, and another number in each head.
        chance = analysis.heads.get(f"{name}_null", xr.full_like(analysis.heads["hub_p"], np.nan))
        values = [[*bounds, at] for bounds, at in zip(sizes, chance.values.ravel().tolist(), strict=True)]
        yield {"id": name, "label": label, "help": meaning, "scale": "size", "null": null, "values": values}
    for name in map(str, (*PATTERNS, *PLACES, *MASSES)):
        found = analysis.evidence.sel(measure=name)
        excess = _by_head(found["excess"].transpose("layer", "head", "value").values)
        values = [[*bounds, q] for bounds, q in zip(excess, found["q"].values.ravel().tolist(), strict=True)]
        label = f"Beyond chance: {BEYOND[name]}"
        spread = "the row's attention to thoughts, spread evenly over them" if name in PATTERNS else "an even spread"
        meaning = f"Attention to {BEYOND[name]}, minus what {spread} gives. q is corrected over heads."
        yield {"id": f"x-{name}", "label": label, "help": meaning, "scale": "excess", "null": 0, "values": values}
    types = [str(name) for name in analysis.evidence["type"].values.ravel()]
    meaning = (
        "What a head's attention shows beyond chance: at least 0.05 of a row, q < 0.05. It is no statement of use."
    )
    yield {"id": "type", "label": "Type of head", "help": meaning, "scale": "type", "null": None, "values": types}
    assert len(types) == len(names)


def _by_head(values: npt.NDArray[Any]) -> list[list[float]]:
    found: list[list[float]] = values.reshape(-1, values.shape[-1]).tolist()
    return found


def _hubs(analysis: Analysis, names: Sequence[str]) -> list[list[Any]]:
    """Of each head its hub by `hub_test` ("" without one), the strength and the corrected p."""
    found = analysis.heads
    columns = (
        found[name].transpose("layer", "head").values.ravel().tolist() for name in ("hub", "hub_strength", "hub_p")
    )
    rows = [list(row) for row in zip(*columns, strict=True)]
    assert len(rows) == len(names)
    return rows


def _problem_blocks(
    run: Run, chosen: Sequence[int], kept: Sequence[int], cells: Sequence[Sequence[int]]
) -> dict[str, str]:
    """A block for each chosen problem: the kept heads, then the mean head."""
    if run.keeps_means:
        return {}
    mask = np.zeros(int(run.manifest["layout"]["n_problems"]), dtype=bool)
    mask[list(chosen)] = True
    blocks: dict[str, str] = {}
    for block in run.blocks(chosen=mask):
        rows = with_all_slots(block["attention"]).transpose("problem", "layer", "head", "query", "key")
        attention = _in_cells(rows.values, cells)
        flat = attention.reshape(len(attention), -1, attention.shape[-1])
        with_mean = np.concatenate([flat[:, list(kept)], flat.mean(1, keepdims=True)], axis=1)
        for values in quantised(with_mean, "uint8"):
            blocks[f"p{len(blocks)}"] = packed(values)
    return blocks


def _problems(run: Run, chosen: Sequence[int]) -> list[Json]:
    steps = {problem.id: problem.steps for problem in run.problems()}
    wanted = frozenset(chosen)
    rows = (row for place, row in enumerate(run.results()) if place in wanted)
    return [
        {
            "id": row["id"],
            "question": _shortened(row["question"]),
            "gold": _shortened(row["gold"]),
            "text": _shortened(row["text"]),
            "answer": None if row["answer"] is None else _shortened(row["answer"]),
            "correct": bool(row["correct"]),
            "steps": list(map(_shortened, steps[row["id"]])),
        }
        for row in rows
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def merged(parts: Iterable[tuple[str, Shown]]) -> tuple[list[Json], dict[str, str]]:
    """The JSON of several runs, each with a prefix for its blocks, and all blocks under prefixed names."""
    facts: list[Json] = []
    blocks: dict[str, str] = {}
    for prefix, shown in parts:
        facts.append({"prefix": prefix, **shown.facts})
        blocks |= {prefix + name: text for name, text in shown.blocks.items()}
    return facts, blocks


LABELS: Final = {
    "joint_logprob": ("log-probability of the right answer and its prefix", "nats"),
    "gold_logprob": ("log-probability of the right answer behind its prefix", "nats"),
    "accuracy": ("accuracy", "of all answers"),
    "kl": ("KL divergence of the answer's first token", "nats"),
    "prefix_logprob": ("log-probability of the answer prefix", "nats"),
    "said_prefix": ("texts that say the answer prefix", "of all texts"),
}
"""What an outcome is, and its unit, by the name that effects give it."""

UNMEASURED, UNCHANGED, BROKEN, MENDED = range(4)
OUTCOME_CODES: Final = (UNMEASURED, UNCHANGED, BROKEN, MENDED)


class Studies(NamedTuple):
    """The finished studies of a run, newest first."""

    facts: list[Json]
    codes: dict[str, npt.NDArray[np.uint8]]
    """by the study's name, what each cut did to each problem"""
    unreadable: list[str]
    """a sentence for each study that was made by another version, or is damaged"""


def studies_of(run: Run, problem_ids: Sequence[str]) -> Studies:
    """What the page says of the studies of a run, with codes of these problems."""
    if run.keeps_means:
        return Studies([], {}, [])
    manifests = studies(run.path)
    finished = {
        name: its.finished for name, its in manifests.items() if (run.path / STUDIES / name / EFFECTS_STORE).is_dir()
    }
    of_page = Studies([], {}, [])
    for name in sorted(finished, key=lambda name: str(finished[name]), reverse=True):
        try:
            done = study(run, name)
        except RunError as error:
            of_page.unreadable.append(f"Study {name} is not shown: {error}")
            continue
        told = {"date": str(finished[name])[:10], "calls": [plan.call for plan in manifests[name].plans]}
        of_page.facts.append(facts_of(study_headline(run, done), done) | told)
        of_page.codes[name] = codes_of(done.effects, problem_ids)
    return of_page


def facts_of(facts: Mapping[str, Any], done: Study) -> Json:
    """What the page says of one study, of its `study_headline`."""
    summary = done.summary
    outcomes = [name for name in LABELS if name in summary]
    return {
        "name": facts["study"],
        "n": facts["n"],
        "n_failed": facts["n_failed"],
        "ranked": RANKED_BY,
        "warnings": facts["warnings"],
        "margins": {name: facts["accuracy_margin" if name == "accuracy" else "margin"] for name in TESTED},
        "outcomes": outcomes,
        "tested": list(TESTED),
        "labels": {name: LABELS[name][0] for name in outcomes},
        "units": {name: LABELS[name][1] for name in outcomes},
        "baseline": {name: list(its.values()) for name, its in facts["baseline"].items()},
        "families": {
            name: {"kind": kind_of(name), "cuts": cuts, "looks": _looks(done, name)}
            for name, cuts in done.families.items()
        },
        "cuts": _cuts(done, outcomes),
        "controls": {
            str(row["intervention"].item()): {name: row[name].sel(value="estimate").item() for name in outcomes}
            for row in _rows(summary, "control")
        },
        "verdicts": facts["verdict"],
        "orders": facts["orders"],
        "curve": _curve(summary, outcomes),
        "doses": _doses(summary, outcomes),
        "transplants": facts["transplants"],
        "variants": facts["variants"],
        "restored": facts["restored"],
        "holdout": facts["holdout"],
    }  # fmt: skip


def codes_of(effects: xr.Dataset, problem_ids: Sequence[str]) -> npt.NDArray[np.uint8]:
    """What each cut of a plan did to the answer of each problem (cut, problem), in the order of the page's cuts."""
    cuts = effects.isel(intervention=np.flatnonzero(effects["kind"].values == "cut"))
    place = {str(name): index for index, name in enumerate(effects["problem"].values)}
    before, after = effects["correct"].sel(intervention=BASELINE).values, cuts["correct"].values
    failed = cuts["failed"].values | effects["failed"].sel(intervention=BASELINE).values
    codes = np.where(before & ~after, BROKEN, np.where(~before & after, MENDED, UNCHANGED))
    codes = np.where(failed, UNMEASURED, codes).astype(np.uint8)
    of_page = np.full((len(codes), len(problem_ids)), UNMEASURED, dtype=np.uint8)
    for column, name in enumerate(problem_ids):
        if name in place:
            of_page[:, column] = codes[:, place[name]]
    return of_page


def _rows(summary: xr.Dataset, kind: str) -> list[xr.Dataset]:
    places = np.flatnonzero(summary["kind"].values == kind)
    return [summary.isel(intervention=place) for place in places]


def _cuts(done: Study, outcomes: Sequence[str]) -> list[Json]:
    late, controls = done.effects.get("exploratory"), controls_of(done.effects)
    rows = []
    for row in _rows(done.summary, "cut"):
        label = str(row["intervention"].item())
        rows.append({
            "label": label,
            **{name: str(row[name].item()) for name in ("family", "unit", "edit", "at")},
            "dose": row["dose"].item(),
            "exploratory": late is not None and bool(late.sel(intervention=label)),
            **{name: int(row[f"n_{name}" if name != "n" else name]) for name in ("n", "failed", "broken", "mended")},
            "effects": {name: row[name].values for name in outcomes},
            "p": {name: row["p_holm"].sel(outcome=name).item() for name in TESTED},
            "p_controls": {name: row["p_controls"].sel(outcome=name).item() for name in TESTED},
            "controls": controls.get(label, []),
            "shown": {name: shown_of(row, name) for name in TESTED},
            "none": {name: bool(row["no_effect"].sel(outcome=name)) for name in TESTED},
        })  # fmt: skip
    return rows


def _looks(done: Study, family: str) -> Mapping[str, Mapping[str, float]]:
    """What each kind of attention gives each unit, on the problems of the study."""
    return {
        how: dict(zip(map(str, values["unit"].values), values.values.tolist(), strict=True))
        for how, values in done.importances.get(family, {}).items()
    }


def _curve(summary: xr.Dataset, outcomes: Sequence[str]) -> Json | None:
    """Effects of the first k cuts of each order, beside the range of random orders."""
    curve = curve_of(summary)
    if curve is None:
        return None
    known = [name for name in outcomes if name in curve]
    names = [str(name) for name in curve["order"].values]
    return {
        "k": curve["k"].values,
        "orders": {name: {o: curve[o].sel(order=name).transpose("k", "value").values for o in known} for name in names},
        "random": {o: curve[f"random_{o}"].transpose("k", "value").values for o in known},
        "n_random": int(curve["n_random"]),
    }


def _doses(summary: xr.Dataset, outcomes: Sequence[str]) -> Json | None:
    """Effects of each degree of what was scaled."""
    graded = doses(summary)
    if not graded:
        return None
    found = dose_response(summary, graded)
    known = [name for name in outcomes if name in found]
    return {
        "dose": found["dose"].values,
        "targets": {
            str(name): {o: found[o].sel(target=name).transpose("dose", "value").values for o in known}
            for name in found["target"].values
        },
    }  # fmt: skip
