"""The summary's sentences: a claim stands only where its test allows it."""

import pytest

from thoughtlens.reports.sentences import cautions, differences, findings


def number(estimate, low, high, **more):
    return {"estimate": estimate, "low": low, "high": high, **more}


@pytest.fixture
def facts():
    evidence = {name: number(0.1, 0.05, 0.15, p=0.001) for name in ("thoughts", "sequential", "skip")}
    return {
        "n": 200,
        "n_answer_rows": 200,
        "accuracy": number(0.9, 0.85, 0.94),
        "hub": {"thought": None, "strength": 1.4, "p": 0.3},
        "hub_heads": {"n_heads": 0, "of": 16, "least": 1.5},
        "sequential": number(1.5, 1.4, 1.6),
        "skip": number(1.2, 1.1, 1.3),
        "evidence": evidence,
        "types": {"hub": 0, "no clear type": 16},
        "ranking": {"unreliable": None, "reliability": 0.95},
        "top_heads": [{"name": "L0H1"}],
        "selected_on": "selected on these problems",
    }


def said(facts, studies=(), parts=None):
    return {finding.about: finding.text for finding in findings(facts, parts or {}, studies)}


def test_no_hub_is_named_unless_the_test_finds_one(facts):
    assert "No thought is shown to be a hub of the mean head" in said(facts)["Hub"]
    facts["hub"] = {"thought": "z4", "strength": 2.0, "p": 0.001}
    assert said(facts)["Hub"].startswith("z4 is a hub of the mean head")
    assert said(facts)["Hub"].endswith("corrected over heads; selected on these problems).")
    facts["hub"] = {"thought": None, "strength": None, "p": None}
    assert "can't be said" in said(facts)["Hub"]


def test_heads_are_ranked_by_importance_and_not_by_attention_alone(facts):
    assert said(facts)["Heads"].startswith("By importance (")
    assert "L0H1 come first" in said(facts)["Heads"]


@pytest.mark.parametrize(
    ("p", "high", "claim"),
    [(0.001, 1.6, "more than no preference"), (0.2, 1.6, "shows no preference"), (1.0, 0.9, "less than no preference")],
)
def test_a_preference_is_claimed_as_its_test_allows(facts, p, high, claim):
    facts["sequential"] = number(high - 0.1, high - 0.2, high)
    facts["evidence"]["sequential"]["p"] = p
    assert claim in said(facts)["Previous thought"]


def test_thoughts_are_said_to_be_looked_at_only_beyond_an_even_spread(facts):
    assert "more than if every token got the same" in said(facts)["Where thoughts look"]
    facts["evidence"]["thoughts"] = number(0.01, -0.02, 0.04, p=0.3)
    assert "an amount that is not shown to be more" in said(facts)["Where thoughts look"]


def test_an_unreliable_ranking_names_no_head(facts):
    facts["ranking"]["unreliable"] = "the ranking of heads is unreliable"
    facts["top_heads"] = []
    assert said(facts)["Heads"].endswith("The ranking of heads is unreliable")


def study(p, effect=-2.0, none=False):
    cut = {
        "label": "L0H1 zero",
        "exploratory": False,
        "p": {"joint": p},
        "effects": {"joint": [effect, effect - 1, effect + 1]},
        "broken": 7,
        "n": 40,
        "none": {"joint": none},
        "controls": ["L0H2 zero"],
    }
    return {
        "name": "heads",
        "n": 40,
        "n_failed": 0,
        "warnings": ["a handful of problems carries the mean"],
        "cuts": [cut],
        "ranked": "joint",
        "labels": {"joint": "log-probability"},
        "margins": {"joint": 0.05},
        "verdicts": {"heads": [{"reading": "looking did not predict cutting"}]},
    }


def test_a_cut_costs_something_only_after_holm(facts):
    assert "1 of 1 cut is shown to cost log-probability" in said(facts, [study(0.01)])["Cutting"]
    assert "7 of 40 answers break" in said(facts, [study(0.01)])["Cutting"]
    for p in (0.2, None):
        text = said(facts, [study(p)])["Cutting"]
        assert "none of 1 cut is shown to cost" in text
        assert "does not show that nothing matters" in text
    assert "none of 1 cut" in said(facts, [study(0.01, effect=1.0)])["Cutting"]
    small = said(facts, [study(0.01, effect=-0.01)])["Cutting"]
    assert "none of 1 cut" in small and "1 further cut costs something, but less." in small
    assert (
        "Of 1 cut the effect is shown to lie within ±0.05 nats" in said(facts, [study(0.9, 0.0, none=True)])["Cutting"]
    )
    assert "Nothing was cut" in said(facts)["Cutting"]


def test_the_verdict_is_repeated_as_it_was_judged(facts):
    assert said(facts, [study(0.01)])["Looking and cutting: heads"] == "Looking did not predict cutting."


def test_nothing_is_claimed_of_what_too_few_problems_leave_undefined(facts):
    facts["accuracy"] = number(0.5, None, None)
    facts["hub"] = {"thought": None, "strength": 1.4, "p": None}
    facts["types"] = None
    facts["evidence"] = {name: number(0.1, None, None, p=None) for name in ("thoughts", "sequential", "skip")}
    texts = said(facts)
    assert "can't be said" in texts["Hub"]
    for about in ("Where thoughts look", "Previous thought", "Skipping back"):
        assert "othing can be said" in texts[about]


def test_cautions_name_what_weakens_the_numbers(facts):
    how = {"keeps_means": False, "readings": {}}
    facts["warnings"] = []
    assert cautions(facts, [], **how) == []
    facts["warnings"] = ["only 8 of 20 outputs reach an answer."]
    few = cautions(facts, [study(0.01)], **how | {"readings": {"checks": [{"name": "rows", "passed": False}]}})
    for words in ("Only 8 of 20 outputs", "failed a check (rows)", "on 40 problems only", "A handful of problems"):
        assert any(words in text for text in few), words


def test_runs_differ_only_where_it_is_shown_after_holm():
    pair = {"of": "b", "minus": "a", "skip": number(0.3, 0.1, 0.5, p=0.01, p_holm=0.2)}
    [none] = differences({"differences": [pair]})
    assert "None of 1 difference is shown" in none.text
    pair["sequential"] = number(-0.5, -0.6, -0.4, p=0.001, p_holm=0.01)
    [one] = differences({"differences": [pair]})
    assert "preference for the previous thought −0.50" in one.text
    assert "first half" not in one.text
