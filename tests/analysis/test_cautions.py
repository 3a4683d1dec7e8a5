"""What few problems may not show, and what is warned of."""

import numpy as np
import pytest

from thoughtlens.analysis import Subject, analysis_tables, analyze, compare, comparison_headline, headline
from thoughtlens.analysis.cautions import few_problems, warnings_of
from thoughtlens.analysis.headlines_and_tables import comparison_tables

FEW = {"n_resamples": 20}


def lean(query, key):
    return 9.0 if key == "z3" and query != "z3" else 1.0


def bounds(found):
    """Every low, high and p in facts."""
    if isinstance(found, dict):
        for name, of in found.items():
            yield from [of] if name in ("low", "high", "p", "p_holm") else bounds(of)
    elif isinstance(found, list):
        for of in found:
            yield from bounds(of)


def test_below_five_problems_no_interval_hub_or_head_is_shown(plant_attention):
    found = analyze(plant_attention(lean, n_problems=4, n_layers=1, n_heads=2), **FEW)
    assert found.model["hub"].item() == "z3"
    facts = headline(found)
    assert set(bounds(facts)) == {None}
    assert facts["hub"] == {"thought": None, "strength": facts["hub"]["strength"], "p": None, "preference": None}
    assert facts["hub_heads"]["n_heads"] is None
    assert facts["types"] is None
    assert facts["top_heads"] == [] and set(map(len, facts["strongest"].values())) == {0}
    assert facts["accuracy"]["estimate"] == 0.5
    for table in analysis_tables(found).values():
        for name in table.columns:
            if name in ("low", "high", "p", "q", "hub_p") or name.endswith(("_low", "_high")):
                assert table[name].isna().all()
            if name in ("hub", "type", "thought") and "name" in table.columns:
                assert (table[name] == "").all()


def test_five_problems_are_shown_with_a_warning_and_twenty_without(plant_attention):
    few, enough = (analyze(plant_attention(lean, n_problems=n, n_layers=1, n_heads=2), **FEW) for n in (5, 20))
    assert headline(few)["hub"]["thought"] == "z3"
    assert None not in (headline(few)["hub"]["p"], headline(few)["accuracy"]["low"])
    assert warnings_of(few) == few_problems(5)
    assert "n = 5: below 20 problems" in warnings_of(few)[0]
    assert warnings_of(enough) == []


def test_a_tested_half_is_what_counts(plant_attention):
    found = analyze(plant_attention(lean, n_problems=30, n_layers=1, n_heads=1), holdout=0.5, **FEW)
    assert warnings_of(found) == few_problems(int(found.model["n"]))
    assert int(found.model["n"]) < 20


def test_a_model_without_an_answer_prefix_is_not_warned_of(make_attention):
    dataset = make_attention(n_problems=24, missing=tuple(range(24)))
    assert warnings_of(analyze(dataset, correct=np.arange(24) < 20, **FEW)) == []
    assert "only 0 of 24 outputs reach an answer" in warnings_of(analyze(dataset, correct=np.arange(24) < 0, **FEW))[1]


def test_low_accuracy_few_answers_and_half_precision_are_warned_of(make_attention):
    dataset = make_attention(n_problems=24, missing=tuple(range(20)))
    found = analyze(dataset, correct=np.arange(24) == 0, **FEW)
    said = warnings_of(found, dtype="bfloat16")
    assert len(said) == 3
    assert said[0].startswith("accuracy is 4.2% (n = 24)")
    assert said[1].startswith("only 4 of 24 outputs reach an answer")
    assert said[2].startswith("the model ran in bfloat16")


def test_models_of_few_problems_are_compared_without_intervals(make_attention):
    sides = {name: make_attention(n_problems=4, seed=seed) for seed, name in enumerate("ab")}
    subjects = {name: Subject(of, of["problem"].values.tolist(), of["correct"].values) for name, of in sides.items()}
    found = compare(subjects, n_resamples=20)
    assert set(bounds(comparison_headline(found))) == {None}
    assert comparison_headline(found)["warnings"] == [*few_problems(4, "a"), *few_problems(4, "b")]
    tables = comparison_tables(found)
    assert tables["models"]["estimate"].notna().all()
    assert tables["models"]["low"].isna().all()
    assert tables["differences"][["low", "high", "p", "p_bh"]].isna().all(axis=None)


@pytest.mark.parametrize("n", [1, 4, 5, 19, 20, 1000])
def test_limits(n):
    assert len(few_problems(n)) == (n < 20)
    assert all(("is shown" in sentence) == (n < 5) for sentence in few_problems(n))
