"""The cells of a survey compared: differences and corrections against scipy; claims; low accuracy and few problems."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from tests.attention_made import analysed

from thoughtlens.analysis import Subject
from thoughtlens.errors import OptionError
from thoughtlens.surveys import Cell, compare_cells

N = 24
GROUPS = {"one": ("a0", "a1", "a2"), "other": ("b0", "b1", "b2")}
RATES = {"a0": 0.9, "a1": 0.8, "a2": 0.7, "b0": 0.5, "b1": 0.45, "b2": 0.35, "weak": 0.0}
"""How many problems of the first set each model solves; of the second a fifth less."""


def effects_of(seed: int) -> xr.DataArray:
    values = np.random.default_rng(seed).normal([[-2.0], [0.0]], 1.0, (2, N))
    labels = {"family": ("intervention", ["thoughts", "heads"]), "unit": ("intervention", ["z1", "L0H0"])}
    names = {"intervention": ["z1 resample", "L0H0 resample"], "problem": [f"p{i}" for i in range(N)]}
    return xr.DataArray(values, names | labels, ("intervention", "problem"))


@pytest.fixture(scope="module")
def cells(make_attention) -> list[Cell]:
    made = make_attention(n_problems=N, n_layers=1, n_heads=2)
    analysis = analysed(made, n_resamples=50)
    found = []
    for place, (model, rate) in enumerate(RATES.items()):
        for number, of in enumerate(("first", "second")):
            right = np.arange(N) < round(rate * (1.0 - 0.2 * number) * N)
            names = [f"{of} {i}" for i in range(N)]
            subject = Subject(made, names, right, problem_set=of)
            # What an analysis says of accuracy is of its own run.
            accuracy = analysis.accuracy.assign(accuracy=analysis.accuracy["accuracy"] * 0.0 + right.mean())
            found.append(Cell(model, of, subject, analysis._replace(accuracy=accuracy), effects_of(2 * place + number)))
    return found


@pytest.fixture(scope="module")
def compared(cells):
    return compare_cells(cells, GROUPS, n_draws=1000, n_resamples=20)


def rate(model: str, of: str) -> float:
    return round(RATES[model] * (1.0 if of == "first" else 0.8) * N) / N


def test_groups_within_a_set_are_compared_over_models(compared):
    table = compared.tables["differences"].query("question == 'groups within a set'")
    for of in ("first", "second"):
        row = table.query("where == @of and measure == 'accuracy'").iloc[0]
        values = [[rate(model, of) for model in GROUPS[name]] for name in ("other", "one")]
        test = stats.ttest_ind(*values, equal_var=False)
        low, high = test.confidence_interval()
        assert row[["estimate", "low", "high", "p"]].tolist() == pytest.approx(
            [np.mean(values[0]) - np.mean(values[1]), low, high, test.pvalue]
        )
        assert row["over"] == "models"
        assert row["n_models"] == 6
    # Heads of two models are not the same thing, thoughts are.
    assert set(table.query("measure == 'effect'")["position"]) == {"z1 resample"}


def test_sets_within_a_group_are_paired_over_models(compared, cells):
    table = compared.tables["differences"].query("question == 'sets within a group' and where == 'one'")
    apart = {
        "accuracy": [rate(model, "second") - rate(model, "first") for model in GROUPS["one"]],
        "effect": [
            float((second.effects - first.effects).sel(intervention="z1 resample").mean())
            for first, second in zip(cells[0:6:2], cells[1:6:2], strict=True)
        ],
    }
    for measure, values in apart.items():
        row = table[table["measure"] == measure].iloc[0]
        test = stats.ttest_1samp(values, 0.0)
        low, high = test.confidence_interval()
        assert row[["estimate", "low", "high", "p"]].tolist() == pytest.approx(
            [np.mean(values), low, high, test.pvalue]
        )
    assert compared.tables["cells"].query("model == 'one' and problems == 'first' and measure == 'accuracy'")[
        "estimate"
    ].item() == pytest.approx(np.mean([rate(model, "first") for model in GROUPS["one"]]))


def test_sets_within_a_model_are_compared_over_problems(compared):
    row = compared.tables["differences"].query("where == 'a0' and measure == 'accuracy'").iloc[0]
    assert row["estimate"] == pytest.approx(rate("a0", "second") - rate("a0", "first"))
    assert row["over"] == "problems"
    assert row["low"] < row["estimate"] < row["high"]
    effects = compared.tables["differences"].query("where == 'a0' and measure == 'effect'")
    assert set(effects["position"]) == {"z1 resample", "L0H0 resample"}


def test_members_of_groups_are_not_compared_one_by_one(compared):
    assert "models within a set" not in set(compared.tables["differences"]["question"])


def test_models_within_a_set_are_paired(cells):
    found = compare_cells([cells[0], cells[6]], n_draws=400, n_resamples=50).tables["differences"]
    assert set(found["question"]) == {"models within a set"}
    row = found.query("measure == 'accuracy'").iloc[0]
    lost = round((rate("a0", "first") - rate("b0", "first")) * N)
    assert row["estimate"] == pytest.approx(-lost / N)
    assert row["p"] == pytest.approx(stats.binomtest(0, lost).pvalue)
    # The attention of both is the same.
    assert found.query("measure == 'sequential'")["estimate"].item() == 0.0
    assert found.query("measure == 'sequential'")["p"].item() == 1.0


def test_holm_is_over_all_differences_of_a_question(compared):
    for _, rows in compared.tables["differences"].groupby("question"):
        known = rows[rows["p"].notna()].sort_values("p", kind="stable")
        m = len(known)
        corrected = np.maximum.accumulate(known["p"].to_numpy() * np.arange(m, 0, -1)).clip(max=1.0)
        assert known["p_holm"].to_numpy() == pytest.approx(corrected)
        assert (known["holds"] == (known["p_holm"] < 0.05)).all()


def test_a_claim_holds_on_all_where_it_holds_in_every_cell_of_enough_accuracy(compared):
    claims, on_all = compared.tables["claims"], compared.tables["claims_on_all"]
    assert set(claims.query("not accuracy_enough")["model"]) == {"weak"}
    for _, row in on_all.iterrows():
        cells = claims.query("claim == @row.claim and accuracy_enough and p.notna()")
        here = cells if row["claim"] == "hub" else cells[cells["position"] == row["position"]]
        holding = here[here["holds"] & (here["position"] == row["position"])]
        assert (row["n_tested"], row["n_holds"]) == (len(here), len(holding))
        assert row["on_all"] == (len(here) == len(holding) > 1)
        assert "weak" not in row["holds_on"] + row["not_on"]
    cost = on_all.query("claim == 'cut costs'").set_index("position")
    assert cost.loc["z1 resample", ["n_tested", "n_holds", "on_all"]].tolist() == [12, 12, True]
    assert cost.loc["L0H0 resample of b1", ["n_tested", "n_holds"]].tolist() == [2, 0]


def test_sentences_say_what_the_tables_say(compared):
    said = {finding.about: finding.text for finding in compared.findings}
    assert "weak on first, weak on second" in said["Accuracy too low"]
    assert "On all 12 pairs of a model and a set with enough accuracy (of 14)" in said["On all"]
    assert "the cut z1 resample costs the answer" in said["On all"]
    assert "weak" not in said["On all"]
    rows = compared.tables["differences"].query("where == 'first' and side == 'other'")
    shown = rows[rows["holds"] & rows["accuracy_enough"]]
    text = said["first: other minus one"]
    assert "over 6 models" in text
    assert text.startswith(f"{len(shown)} of {rows['p'].notna().sum()} differences" if len(shown) else "None of ")
    assert "Accuracy is too low" in said["weak: second minus first"]
    assert any(text.startswith("weak on first: accuracy is 0.0%") for text in compared.warnings)


def test_few_problems_have_neither_intervals_nor_p_values(cells):
    few = []
    for cell in cells[:2]:
        made = cell.subject.blocks.isel(problem=slice(4))
        subject = replace(
            cell.subject, blocks=made, problems=cell.subject.problems[:4], correct=cell.subject.correct[:4]
        )
        effects = cell.effects.isel(problem=slice(4))
        few.append(cell._replace(subject=subject, analysis=analysed(made, n_resamples=50), effects=effects))
    tables = compare_cells(few, n_draws=50, n_resamples=50).tables
    for name in ("cells", "differences", "cut_effects"):
        table = tables[name]
        assert len(table)
        assert table[["low", "high"]].isna().all(axis=None), name
        assert "p" not in table or table["p"].isna().all(), name
    assert not tables["claims"]["holds"].any()


def test_a_model_that_is_not_on_every_set_is_refused(cells):
    with pytest.raises(OptionError, match="found 3 cells, expected each model on each set once"):
        compare_cells(cells[:3])


def test_small_groups_are_compared_over_problems(cells):
    groups = {"one": ("a0", "a1"), "other": ("b0", "b1")}
    chosen = [cell for cell in cells[::2] if cell.model in ("a0", "a1", "b0", "b1")]
    found = compare_cells(chosen, groups, n_draws=400, n_resamples=50)
    row = found.tables["differences"].query("measure == 'accuracy'").iloc[0]
    means = [np.mean([rate(model, "first") for model in groups[name]]) for name in ("other", "one")]
    assert row["estimate"] == pytest.approx(means[0] - means[1])
    assert row["over"] == "problems"
    assert any("one has 2 models, fewer than 3" in text for text in found.warnings)
    fewer = compare_cells(chosen, groups, n_draws=20, n_resamples=50)
    assert any("no p of 20 draws can pass Holm's correction" in text for text in fewer.warnings)
    assert not any("can pass" in text for text in found.warnings)
