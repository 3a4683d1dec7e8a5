"""Results as public functions give them, made up at any size: an Analysis, a Comparison, a Study, a question's tokens.

Each is what a public function returns for tiny data, with random numbers in the place of what figures draw.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr
from tests.analysis.effects_made import made_effects
from tests.reports.test_studies import RunInMemory, unit

from thoughtlens.analysis import analyze, compare, rank_heads, transplant_table
from thoughtlens.analysis.comparison_sides import Subject
from thoughtlens.notation import edge_name, head_name, key_names, query_names, step_label, thought_names
from thoughtlens.reports import study
from thoughtlens.schema import attention_dataset

N = 60
"""Problems of a study: those of the run in memory."""
PARTS = ["first", "question", "bot", "earlier thoughts", "self", "eot", "answer"]
VALUES = ["estimate", "low", "high"]
TYPES = ["hub", "previous-thought", "skip", "first-token", "self", "read-out", "no clear type"]
TEXTS = [
    "<s>",
    "Tom",
    " has",
    " $3",
    "$x$",
    " _a^b_",
    "\n",
    " 苹果",
    "antidisestablishmentarianism",
    "  ",
    "\x00&amp;<b>",
]


def made_attention(n_problems, n_layers, n_heads, n_thoughts, seed=0):
    values = np.random.default_rng(seed).exponential(
        size=(n_problems, n_layers, n_heads, n_thoughts + 3, n_thoughts + 5)
    )
    values *= np.arange(n_thoughts + 5)[None, :] <= np.arange(n_thoughts + 3)[:, None] + 2
    return attention_dataset(
        (values / values.sum(-1, keepdims=True)).astype("float32"),
        problem_ids=[f"p{k}" for k in range(n_problems)],
        correct=np.arange(n_problems) % 2 == 0,
        n_question_tokens=np.full(n_problems, 9),
    )


@lru_cache
def real_analysis(n_layers=2, n_heads=3, n_thoughts=6):
    attention = made_attention(5, n_layers, n_heads, n_thoughts)
    return analyze(attention, correct=attention["correct"], n_resamples=10)


def numbers(estimate):
    """Estimates with an interval around each."""
    return np.stack([estimate, estimate - 0.1, estimate + 0.2], axis=-1)


@lru_cache
def made_analysis(n_layers=12, n_heads=12, n_thoughts=6, *, n_answers=7401):
    """7473 problems, of which some answer; one head without a sequential preference, one thought without preference."""
    rng, shape, thoughts = np.random.default_rng(1), (n_layers, n_heads), thought_names(n_thoughts)
    axes = {"layer": range(n_layers), "head": range(n_heads)}
    queries, keys = query_names(n_thoughts), key_names(n_thoughts)
    mean = made_attention(1, n_layers, n_heads, n_thoughts, seed=2).attention.isel(problem=0, drop=True)
    moments = xr.Dataset({"mean": mean.astype(float), "n": xr.full_like(mean.isel(key=0, drop=True), 7473, dtype=int)})
    names = ("largest_preference", "sequential", "skip", "thought_mass", "importance")
    of_heads = {name: rng.gamma(1.0, size=shape) for name in names}
    of_heads["sequential"][-1, -1] = np.nan
    nulls = {name: rng.uniform(1.0, 1.1, size=shape) for name in ("hub_strength_null", "largest_preference_null")}
    nulls |= {"hub_strength": rng.gamma(2.0, size=shape), "importance_null": rng.uniform(0.0, 0.1, size=shape)}
    hubs = np.where(nulls["hub_strength"] > 3.0, "z2", "").astype(np.dtypes.StringDType())
    heads = xr.Dataset(
        {name: (("layer", "head", "value"), numbers(values)) for name, values in of_heads.items()}
        | {name: (("layer", "head"), values) for name, values in (nulls | {"hub": hubs}).items()},
        coords=axes,
    ).assign_coords(value=VALUES)
    preference = 1 + rng.normal(size=n_thoughts, scale=0.2)
    preference[-1 if n_thoughts > 2 else 0 :] = np.nan
    hub = thoughts[int(np.nanargmax(preference))] if n_thoughts > 2 else ""
    lags = rng.uniform(0.5, 2.0, size=n_thoughts - 1)
    lags[n_thoughts - 2 :] = np.nan
    model = xr.Dataset(
        {
            "preference": (("thought", "value"), numbers(preference)),
            "lag_preference": (("lag", "value"), numbers(lags)),
            "hub": hub,
            "preferred": hub,
            "n": 7473,
        },
        coords={"thought": thoughts, "lag": range(1, n_thoughts), "value": VALUES},
    )
    rows = rng.dirichlet(np.ones(len(PARTS)), size=len(queries))
    n = np.full(len(queries), 7473)
    n[-1] = n_answers
    rows[-1] = rows[-1] if n_answers else np.nan
    composition = xr.Dataset(
        {"composition": (("query", "part", "value"), numbers(rows)), "n": ("query", n)},
        coords={"query": queries, "part": PARTS, "value": VALUES},
    )
    layers = xr.Dataset(
        {name: (("layer", "value"), numbers(rng.gamma(1.0, size=n_layers))) for name in names[1:4]}
        | {"preference": (("layer", "thought", "value"), numbers(rng.gamma(1.0, size=(n_layers, n_thoughts))))},
        coords={"layer": range(n_layers), "thought": thoughts, "value": VALUES},
    )
    kinds = np.array([TYPES[place % len(TYPES)] for place in range(n_layers * n_heads)], dtype=np.dtypes.StringDType())
    share = rng.dirichlet(np.ones(max(1, n_thoughts - 1)))[: n_thoughts - 1]
    last = xr.DataArray(
        numbers(share), dims=("thought", "value"), coords={"thought": thoughts[:-1], "value": VALUES}
    ).assign_attrs(null=1 / max(1, n_thoughts - 1))
    assert keys[3] == "z1"
    return real_analysis()._replace(
        moments=moments,
        composition=composition,
        model=model,
        layers=layers.assign(n=7473),
        heads=heads.assign(n=7473),
        ranking=rank_heads(heads),
        evidence=xr.Dataset({"type": (("layer", "head"), kinds.reshape(shape))}, coords=axes),
        last_thought=xr.Dataset({"share": last, "n": 7473}),
    )


@lru_cache
def made_comparison(n_thoughts=6, names=("tiny-gpt2", "tiny-llama"), *, typed=True):
    subjects = {}
    for seed, name in enumerate(names):
        attention = made_attention(8, 3, 4, n_thoughts, seed=seed)
        types = np.array([TYPES[(place + seed) % len(TYPES)] for place in range(12)]).reshape(3, 4)
        subjects[name] = Subject(
            attention,
            [f"p{k}" for k in range(8)],
            attention["correct"].values,
            attention["n_question_tokens"].values,
            head_types=xr.DataArray(types, dims=("layer", "head")) if typed else None,
        )
    return compare(subjects, n_resamples=10)


def _cuts(kind, n):
    """What is cut by label: n heads, the edges among n thoughts, n steps of orders, or degrees for n heads."""
    heads = [head_name(k // 32, k % 32) for k in range(n)]
    if kind == "edges":
        edges = [edge_name(f"z{q}", f"z{k}") for q in range(2, n + 1) for k in range(1, q)]
        return {edge: unit("edges", edge, "block") for edge in edges}
    if kind == "orders":
        orders = ("attention", "value-weighted", "rolled out", "effect", "random order 1", "random order 2")
        return {step_label(order, k): {"order": order, "k": k} for order in orders for k in range(1, n + 1)}
    if kind == "doses":
        factors = (0.75, 0.5, 0.25)
        return {f"{head}, {x}": unit("heads", head, "scale", dose=1 - x) for head in heads for x in factors}
    return {f"{head}, every later query of the thoughts": unit("heads", head) for head in heads}


@lru_cache
def made_study(kind="heads", n=5):
    """Cuts of one kind on a made-up run: the first costs most, the last third costs nothing; heads have controls."""
    rng, cuts = np.random.default_rng(3), _cuts(kind, n)
    costs = np.clip(np.linspace(1.0, -0.5, len(cuts)), 0.0, 1.0) if len(cuts) > 1 else [0.5]
    base = rng.normal(-1, 0.2, size=N)
    logprob = {label: base - cost + rng.normal(0, 0.05, N) for label, cost in zip(cuts, costs, strict=True)}
    controls = {}
    if kind == "heads":
        drawn = [f"chance {k}" for k in range(9)]
        controls = {label: drawn[: 3 + place % 7] for place, label in enumerate(cuts)}
        logprob |= {label: base + rng.normal(0, 0.05, N) for label in {x for its in controls.values() for x in its}}
    correct = {label: values > -1.6 for label, values in logprob.items()}
    effects = made_effects(
        correct, baseline=base > -1.6, logprob=logprob | {"none": base}, controls=controls, addresses=cuts
    )
    n_thoughts, n_heads = (n, 3) if kind == "edges" else (4, min(32, max(3, n)))
    n_layers = -(-n // 32) if kind in ("heads", "doses") else 1
    attention = made_attention(N, n_layers, n_heads, n_thoughts, seed=4)
    return study(RunInMemory(Path("nowhere"), attention), effects, n_resamples=10)


@lru_cache
def made_transplants(n=2):
    """n transplants, the first of which is followed by all."""
    done = made_study("heads", 5)
    effects = done.effects.isel(intervention=[0, *[1] * n])
    labels = ["none", *(f"thoughts of donor {k}" for k in range(n))]
    rng, own = np.random.default_rng(5), np.array([str(k) for k in range(N)])
    answers = [own, *(np.where(rng.random(N) < 1 - k / n, np.roll(own, -1), own) for k in range(n))]
    problems = effects["problem"].values.astype(object)
    donors = [np.full(N, ""), *[np.roll(problems, -1)] * n]
    string = np.dtypes.StringDType()
    spec = np.array(["[]", *['[{"site": "thought", "edit": "resample"}]'] * n], dtype=string)
    effects = effects.assign_coords(intervention=np.array(labels, dtype=string), spec=("intervention", spec)).assign(
        answer=(("intervention", "problem"), np.array(answers).astype(string)),
        donor=(("intervention", "problem"), np.array(donors).astype(object).astype(string)),
    )
    assert transplant_table(effects) is not None
    return done._replace(effects=effects)


def made_tokens(n_thoughts=6, n_tokens=30, texts=()):
    attention = np.random.default_rng(9).dirichlet(np.ones(n_tokens), size=n_thoughts)
    words = list(texts) or [TEXTS[place % len(TEXTS)] for place in range(n_tokens)]
    coords = {"query": thought_names(n_thoughts), "text": ("token", words)}
    return xr.Dataset({"attention": (("query", "token"), attention)}, coords=coords, attrs={"problem": "arith_7"})
