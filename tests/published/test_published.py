"""The formulas of the 2025 scripts, against the numbers that they published and against plain loops."""

import numpy as np
import pytest
import xarray as xr

from thoughtlens.analysis import moments
from thoughtlens.published import (
    Published,
    attention_stats,
    attention_summary,
    findings,
    head_scores,
    model_comparison,
    ranked_tables,
    step_indexed,
)
from thoughtlens.published.step_indexed_scores import TABLES, layer_types, ranked, top_counts

# LLaMA-1B, 16 x 32 heads, 100 problems of GSM8K: the mean map over layers and heads (rows 1 to 5), and of single heads,
# as printed in docs/experiments/10-28_llama_gsm8k_attention_flow_analysis.md and the figures of
# src/experiments/codi_attention_flow in github.com/GusSand/CoT_Exploration (4 and 3 decimals).
LLAMA = ".0512|.0449 .0441|.0379 .0375 .0320|.0299 .0243 .0214 .0235|.0333 .0308 .0234 .0334 .0391"
LLAMA_HEADS = {
    (4, 5): ".464|.404 .145|.260 .103 .038|.169 .049 .022 .043|.284 .141 .060 .064 .129",
    (5, 30): ".203|.244 .032|.186 .034 .009|.388 .051 .013 .007|.365 .067 .025 .011 .077",
    (5, 28): ".308|.120 .061|.076 .039 .025|.214 .039 .017 .012|.524 .105 .023 .010 .045",
    (0, 9): ".804|.285 .572|.106 .208 .579|.070 .060 .169 .645|.238 .122 .093 .128 .335",
    (3, 6): ".066|.411 .070|.350 .140 .021|.101 .088 .026 .001|.159 .363 .191 .013 .012",
    (6, 2): ".756|.418 .270|.212 .229 .094|.082 .063 .086 .112|.085 .058 .055 .088 .430",
    (4, 26): ".781|.402 .320|.155 .162 .220|.055 .022 .028 .464|.074 .018 .011 .125 .612",
    (7, 23): ".045|.023 .123|.036 .158 .072|.069 .518 .131 .003|.068 .350 .117 .003 .010",
}
THIRD_DECIMAL = 0.0005 + 1e-6
FOURTH_DECIMAL = 0.00005 + 1e-6


def read_map(text: str) -> np.ndarray:
    cells = np.zeros((6, 6))
    for row, values in enumerate(text.split("|"), start=1):
        cells[row, :row] = [float(value) for value in values.split()]
    return cells


def label(cells: np.ndarray) -> xr.DataArray:
    """Maps (layer, head, row, column) as `step_indexed` labels them."""
    coords = {dim: np.arange(size) for dim, size in zip(("layer", "head", "row", "column"), cells.shape, strict=True)}
    return xr.DataArray(cells, dims=("layer", "head", "row", "column"), coords=coords)


def random_maps(n_layers: int = 5, n_heads: int = 3, n_steps: int = 6, seed: int = 0) -> xr.DataArray:
    """Every cell filled, those on and above the diagonal too, so that no formula hides behind a zero."""
    return label(np.random.default_rng(seed).uniform(size=(n_layers, n_heads, n_steps, n_steps)))


@pytest.fixture
def llama() -> xr.DataArray:
    """Heads that differ and whose mean is the published map."""
    mean = np.broadcast_to(read_map(LLAMA), (2, 3, 6, 6)).copy()
    away = np.random.default_rng(0).uniform(-0.01, 0.01, size=mean.shape) * (mean > 0)
    return label(mean + away - away.mean((0, 1)))


@pytest.fixture
def llama_heads() -> xr.DataArray:
    """A model of 16 x 32 heads: the eight that are known, one with the largest skip of all, else next to nothing."""
    cells = np.broadcast_to(np.tril(np.full((6, 6), 1e-5), -1), (16, 32, 6, 6)).copy()
    for place, text in LLAMA_HEADS.items():
        cells[place] = read_map(text)
    cells[6, 1, 5, :3] = 0.252
    return label(cells)


def test_published_hub_flow_and_skips_of_llama(llama):
    summary = attention_summary(llama, model="llama")
    hub, flow, skips = (summary[name] for name in ("hub_analysis", "sequential_flow", "skip_connections"))
    expected = [0.1972, 0.1367, 0.0768, 0.0569, 0.0391, 0.0]
    np.testing.assert_allclose(hub["all_hub_scores"], expected, atol=FOURTH_DECIMAL)
    assert hub["hub_position"] == 0
    assert round(hub["hub_ratio"], 2) == 1.18
    assert not hub["is_strong_hub"]
    np.testing.assert_allclose(flow["sequential_scores"], [0.0512, 0.0441, 0.0320, 0.0235, 0.0391], atol=FOURTH_DECIMAL)
    assert flow["avg_sequential_attention"] == pytest.approx(0.0380, abs=FOURTH_DECIMAL)
    assert flow["position_5_to_4"] == pytest.approx(0.0391, abs=FOURTH_DECIMAL)
    np.testing.assert_allclose(skips["skip_scores"], [0.0333, 0.0308, 0.0234], atol=FOURTH_DECIMAL)
    assert skips["avg_skip_attention"] == pytest.approx(0.0292, abs=FOURTH_DECIMAL)
    assert summary["answers"] == {
        "which_position_is_hub": 0,
        "is_there_sequential_flow": False,
        "does_pos5_attend_to_pos4": False,
        "are_there_skip_connections": False,
    }


def test_published_row_masses_of_llama(llama):
    stats = attention_stats(llama, xr.zeros_like(llama), model="llama", n_problems=100)
    outgoing = [position["avg_outgoing_attention"] for position in stats["position_stats"]]
    np.testing.assert_allclose(outgoing, [0.0, 0.0512, 0.0890, 0.1074, 0.0989, 0.1600], atol=2e-4)


@pytest.mark.parametrize(
    ("place", "hub", "skip"), [((4, 5), 0.300, 0.162), ((5, 30), 0.246, 0.153), ((5, 28), 0.196, 0.218)]
)
def test_published_hub_and_skip_of_single_heads(llama_heads, place, hub, skip):
    found = head_scores(llama_heads).set_index(["layer", "head"]).loc[place]
    # Five cells, each known to half a thousandth, make a column sum, and the hub score is its square's size.
    assert found["hub_score"] == pytest.approx(hub, abs=2e-3)
    assert found["skip_score"] == pytest.approx(skip, abs=2 * THIRD_DECIMAL)
    assert found["max_attention"] == pytest.approx(read_map(LLAMA_HEADS[place]).max())
    assert found["hub_position"] == 0


def test_published_ranking_of_llama(llama_heads):
    """The first ten of LLaMA but the two whose maps are not known; L4H5 has .528 by its .300 and .162."""
    published = [
        (4, 5, 0.528, "Hub Aggregator"), (5, 30, 0.449, "Hub Aggregator"), (5, 28, 0.434, "Skip Connection"),
        (0, 9, 0.421, "Hub Aggregator"), (3, 6, 0.411, "Skip Connection"), (6, 2, 0.395, "Hub Aggregator"),
        (7, 23, 0.361, "Skip Connection"), (4, 26, 0.301, "Hub Aggregator"),
    ]  # fmt: skip
    order = ranked(head_scores(llama_heads), "composite_score").head(8)
    assert list(zip(order["layer"], order["head"], strict=True)) == [(layer, head) for layer, head, *_ in published]
    # The least hub and skip of the other heads, here next to 0, are not known.
    np.testing.assert_allclose(order["composite_score"], [composite for *_, composite, _ in published], atol=2e-3)
    assert list(order["functional_type"]) == [kind for *_, kind in published]


def with_hub_and_skip(hub: float, skip: float) -> np.ndarray:
    """A map of this hub and skip score: row 5 is (s, s, s, 0, 0), and rows 1 to 4 give a/4 each to column 0."""
    # Var(s + a, s, s, 0, 0, 0) = ((s + a)² + 2 s²)/6 − (3 s + a)²/36, solved for a.
    added = max(np.roots([5 / 36, 6 * skip / 36, 9 * skip**2 / 36 - hub]).real)
    cells = np.zeros((6, 6))
    cells[5, :3] = skip
    cells[1:5, 0] = added / 4
    return cells


def test_published_composites_of_gpt2_end_at_the_cap():
    """L0H3 of GPT-2 has the largest hub and the largest skip, and so .4 + .2, the most that there can be."""
    empty = np.tril(np.full((6, 6), 1e-6), -1)
    cells = np.broadcast_to(empty, (12, 12, 6, 6)).copy()
    cells[0, 3], cells[5, 3], cells[6, 0] = (
        with_hub_and_skip(*scores) for scores in ((0.266, 0.153), (0.213, 0.080), (0.197, 0.093))
    )
    order = ranked(head_scores(label(cells)), "composite_score").head(3)
    np.testing.assert_allclose(order["hub_score"], [0.266, 0.213, 0.197], rtol=1e-5)
    np.testing.assert_allclose(order["composite_score"], [0.600, 0.425, 0.417], atol=1.5e-3)
    assert list(order["functional_type"]) == ["Multi-Purpose", "Hub Aggregator", "Hub Aggregator"]


def test_flow_is_one_and_composite_at_most_six_tenths(make_attention):
    mean = step_indexed(make_attention(n_layers=6, n_heads=8).attention.mean("problem"))
    scores = head_scores(mean)
    assert (scores["flow_score"] == 1).all()
    assert scores["composite_score"].max() <= 0.6 + 1e-6
    assert "Forward Flow" not in set(scores["functional_type"])


def test_a_head_without_mass_lifts_the_flow_of_all_others(llama_heads):
    llama_heads[0, 0] = 0.0
    scores = head_scores(llama_heads)
    assert scores["flow_score"][0] == 0
    assert scores["composite_score"].max() == pytest.approx(0.4 + 0.528, abs=2e-3)
    assert "L4H5" in findings(scores, model="llama").splitlines()[-1]


@pytest.mark.parametrize(
    ("n_layers", "early", "middle"), [(16, 5, 10), (12, 4, 8), (4, 1, 2), (3, 1, 2), (2, 0, 1), (1, 0, 0)]
)
def test_layers_come_in_thirds(n_layers, early, middle):
    expected = ["early" if n < early else "middle" if n < middle else "late" for n in range(n_layers)]
    assert list(layer_types(np.arange(n_layers), n_layers)) == expected


def plain_scores(cells: np.ndarray) -> dict[str, float]:
    n = len(cells)
    forward = sum(cells[i, j] for i in range(n) for j in range(i))
    total = sum(cells[i, j] for i in range(n) for j in range(i + 1))
    columns = [sum(cells[i, j] for i in range(n)) for j in range(n)]
    average = sum(columns) / n
    early = [cells[n - 1, j] for j in range(n) if 2 * j < n]
    return {
        "flow_score": forward / total if total else 0.0,
        "hub_score": sum((column - average) ** 2 for column in columns) / n,
        "hub_position": columns.index(max(columns)),
        "skip_score": sum(early) / len(early),
        "max_attention": max(cells[i, j] for i in range(n) for j in range(n)),
        "mean_attention": sum(cells[i, j] for i in range(n) for j in range(n)) / n**2,
    }


@pytest.mark.parametrize("n_steps", [1, 2, 3, 6, 9])
def test_head_scores_are_plain_loops(n_steps):
    maps = random_maps(n_steps=n_steps)
    maps[1, 1] = 0.0
    for _, found in head_scores(maps).iterrows():
        expected = plain_scores(maps.sel(layer=found["layer"], head=found["head"]).values)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def plain_composite(rows: list[dict[str, float]]) -> tuple[list[float], list[str]]:
    names = ("flow_score", "hub_score", "skip_score")
    low, high = ({name: pick(row[name] for row in rows) for name in names} for pick in (min, max))
    composites, types = [], []
    for row in rows:
        norms = [(row[name] - low[name]) / (high[name] - low[name] + 1e-10) for name in names]
        composites.append(0.4 * norms[0] + 0.4 * norms[1] + 0.2 * norms[2])
        first, second = sorted(range(3), key=lambda k, norms=norms: -norms[k])[:2]
        several = norms[first] > 0.7 and norms[second] > 0.7
        types.append("Multi-Purpose" if several else ("Forward Flow", "Hub Aggregator", "Skip Connection")[first])
    return composites, types


def test_composite_and_type_are_plain_loops():
    maps = random_maps(n_layers=8, n_heads=8)
    composites, types = plain_composite([plain_scores(cells) for cells in maps.values.reshape(-1, 6, 6)])
    found = head_scores(maps)
    np.testing.assert_allclose(found["composite_score"], composites, rtol=1e-5)
    assert list(found["functional_type"]) == types
    assert set(types) == {"Multi-Purpose", "Forward Flow", "Hub Aggregator", "Skip Connection"}


def test_tables_are_sorted_by_their_own_score_and_ties_by_place():
    maps = random_maps()
    maps[3, 0] = maps[0, 2]
    tables = ranked_tables(head_scores(maps))
    for name, (by, columns) in TABLES.items():
        table = tables[name]
        assert list(table.columns) == columns
        values, places = table[by].to_numpy(), list(zip(table["layer"], table["head"], strict=True))
        assert sorted(places) == [(layer, head) for layer in range(5) for head in range(3)]
        assert (np.diff(values) <= 0).all()
        assert places.index((3, 0)) == places.index((0, 2)) + 1


@pytest.mark.parametrize("n_steps", [2, 3, 6, 9])
def test_summary_is_plain_loops(n_steps):
    maps = random_maps(n_steps=n_steps)
    model = maps.values.mean((0, 1))
    summary = attention_summary(maps, model="m")
    hub, flow, skips = (summary[name] for name in ("hub_analysis", "sequential_flow", "skip_connections"))
    columns = [sum(model[i, j] for i in range(n_steps)) for j in range(n_steps)]
    np.testing.assert_allclose(hub["all_hub_scores"], columns, rtol=1e-5)
    assert hub["hub_score"] == pytest.approx(max(columns), rel=1e-5)
    assert hub["hub_ratio"] == pytest.approx(max(columns) * n_steps, rel=1e-5)
    assert hub["is_strong_hub"] == (max(columns) * n_steps > 2)
    steps = [model[i, i - 1] for i in range(1, n_steps)]
    np.testing.assert_allclose(flow["sequential_scores"], steps, rtol=1e-5)
    assert flow["avg_sequential_attention"] == pytest.approx(sum(steps) / len(steps), rel=1e-5)
    assert flow["has_sequential_flow"] == (sum(steps) / len(steps) > 0.3)
    assert flow[f"position_{n_steps - 1}_to_{n_steps - 2}"] == pytest.approx(steps[-1], rel=1e-5)
    assert summary["answers"][f"does_pos{n_steps - 1}_attend_to_pos{n_steps - 2}"] == (steps[-1] > 0.15)
    early = [model[-1, j] for j in range((n_steps + 1) // 2)]
    np.testing.assert_allclose(skips["skip_scores"], early, rtol=1e-5)
    assert skips["has_skip_connections"] == (sum(early) / len(early) > 0.1)


@pytest.mark.parametrize(
    ("cell", "value", "place"),
    [
        ("hub", 0.34, ("hub_analysis", "is_strong_hub")),
        ("sequential", 0.31, ("answers", "is_there_sequential_flow")),
        ("previous", 0.16, ("answers", "does_pos5_attend_to_pos4")),
        ("skip", 0.11, ("answers", "are_there_skip_connections")),
    ],
)
def test_each_threshold_is_where_the_scripts_had_it(cell, value, place):
    """2, 0.3, 0.15 and 0.1: passed just above, not passed just below."""
    where = {
        "hub": (3, 1),
        "sequential": ([1, 2, 3, 4, 5], [0, 1, 2, 3, 4]),
        "previous": (5, 4),
        "skip": (5, [0, 1, 2]),
    }
    for filled, expected in ((value, True), (value - 0.02, False)):
        cells = np.zeros((1, 1, 6, 6))
        cells[0, 0][where[cell]] = filled
        section, name = place
        assert attention_summary(label(cells), model="m")[section][name] is expected


def test_a_single_thought_has_no_flow_to_average():
    summary = attention_summary(label(np.zeros((2, 2, 1, 1))), model="m")
    assert summary["sequential_flow"]["avg_sequential_attention"] is None
    assert summary["sequential_flow"]["has_sequential_flow"] is False
    assert summary["hub_analysis"]["all_hub_scores"] == [0.0]


def test_stats_are_plain_numpy_over_problems(make_attention):
    attention = make_attention(n_problems=7, n_layers=5, n_heads=6, missing=(2,)).attention
    raw = step_indexed(attention).values.astype(np.float64)
    measured = moments([attention])
    stats = attention_stats(
        step_indexed(measured["mean"]), step_indexed(measured["sd"]), model="random", n_problems=len(raw)
    )
    mean, sd = raw.mean(0), raw.std(0)
    assert stats["consistency"] == {
        "mean_std": pytest.approx(sd.mean(), rel=1e-5),
        "max_std": pytest.approx(sd.max(), rel=1e-5),
        "min_std": 0.0,
        "consistent": True,
    }
    largest = mean.max((-1, -2))
    order = sorted(np.ndindex(5, 6), key=lambda place: -largest[place])[:20]
    assert [(head["layer"], head["head"]) for head in stats["top_20_heads"]] == order
    for head, place in zip(stats["top_20_heads"], order, strict=True):
        assert head["max_attention"] == pytest.approx(largest[place], rel=1e-5)
        assert head["mean_attention"] == pytest.approx(mean[place].mean(), rel=1e-5)
        assert head["std_attention"] == pytest.approx(sd[place].mean(), rel=1e-5)
    for position, found in enumerate(stats["position_stats"]):
        assert found["position"] == position
        assert found["avg_incoming_attention"] == pytest.approx(mean[..., position].sum(-1).mean(), rel=1e-5)
        assert found["avg_outgoing_attention"] == pytest.approx(mean[..., position, :].sum(-1).mean(), rel=1e-5)
    assert stats["overall_stats"] == {
        "mean_attention": pytest.approx(mean.mean(), rel=1e-5),
        "max_attention": pytest.approx(mean.max(), rel=1e-5),
        "min_attention": 0.0,
    }


def test_patterns_are_inconsistent_from_two_tenths_on():
    maps = random_maps()
    for spread, expected in ((0.19, True), (0.21, False)):
        stats = attention_stats(maps, xr.full_like(maps, spread), model="m", n_problems=3)
        assert stats["consistency"]["consistent"] is expected


def test_findings_name_the_top_three_and_count_the_top_twenty():
    scores = head_scores(random_maps(n_layers=6, n_heads=5))
    lines = findings(scores, model="mine").splitlines()
    order = scores.sort_values("composite_score", ascending=False)
    for place, (_, head) in enumerate(order.head(3).iterrows(), start=1):
        assert f"{place}. L{head['layer']}H{head['head']} - {head['functional_type']}" in lines
        assert f"   Composite score: {head['composite_score']:.3f}" in lines
    for column in ("functional_type", "layer_type"):
        names = list(order[column].head(20))
        for name in set(names):
            assert f"  {name}: {names.count(name)}" in lines
    assert f"  Hub: mean={scores['hub_score'].mean():.3f}, max={scores['hub_score'].max():.3f}" in lines
    critical = order[order["composite_score"] > 0.7]
    assert f"CRITICAL HEADS (composite > 0.7): {len(critical)}" in lines
    assert lines[-1].split(", ") == [
        f"{'' if row else '  '}L{head['layer']}H{head['head']}" for row, (_, head) in enumerate(critical.iterrows())
    ]


def test_comparison_sets_models_side_by_side():
    maps = {"one": random_maps(seed=1), "other": random_maps(n_layers=2, n_heads=4, n_steps=4, seed=2)}
    models = {
        name: Published(f"size of {name}", attention_summary(cells, model=name), head_scores(cells))
        for name, cells in maps.items()
    }
    found = model_comparison(models)
    assert found["models"]["other"] == {"model_size": "size of other", "n_layers": 2, "n_heads": 4, "total_heads": 8}
    for name, model in models.items():
        best = model.heads.loc[model.heads["composite_score"].idxmax()]
        columns = [
            "layer", "head", "functional_type", "composite_score", "flow_score", "hub_score", "skip_score",
        ]  # fmt: skip
        assert found["top_heads"][name] == {column: best[column] for column in columns}
        assert found["hub_analysis"][name] is model.summary["hub_analysis"]
        assert sum(found["functional_type_distribution_top20"][name].values()) == min(20, len(model.heads))
        assert found["layer_distribution_top20"][name] == top_counts(
            ranked(model.heads, "composite_score"), "layer_type"
        )
        hub = model.summary["hub_analysis"]
        assert found["key_findings"]["hub_position"][name] == hub["hub_position"]
        assert found["key_findings"]["hub_strength"][name] == {
            "score": hub["hub_score"],
            "ratio": hub["hub_ratio"],
            "strong": hub["is_strong_hub"],
        }
        sections = {"sequential_flow": "has_sequential_flow", "skip_connections": "has_skip_connections"}
        for section, key in sections.items():
            assert found["key_findings"][section][name] == model.summary[section][key]
