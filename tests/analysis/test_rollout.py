"""Rollout against all paths counted one by one, against closed forms, and on a model whose paths are known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from tests.models.test_planted import measure
from transformers import GPT2Config, GPT2LMHeadModel

from thoughtlens.analysis import analysis_tables, analyze, headline, rollout
from thoughtlens.analysis.attention_against_effects import look
from thoughtlens.analysis.attention_measures import reached, rollout_note
from thoughtlens.models import Codi, Markers, planted_problems, planted_reasoner, projection
from thoughtlens.notation import ANSWER, BOT, EOT, FIRST, QUESTION, key_names, query_names, thought_names
from thoughtlens.schema import attention_dataset
from thoughtlens.taps import ATTENTION

SOURCES = [FIRST, QUESTION, BOT, EOT, ANSWER]


def paths(rows: xr.DataArray, layer: int, position: str):
    """Every way back from a position's state above a layer: (weight, inputs that it passed, ending at a source)."""
    thoughts = [str(name) for name in rows["query"].values[1:-2]]
    before = dict(pairwise([BOT, *thoughts]))
    fed_by = {after: earlier for earlier, after in before.items()}
    if position in (FIRST, QUESTION):
        yield 1.0, (position,)
    elif layer == 0 and position in thoughts:
        for weight, passed in paths(rows, rows.sizes["layer"], fed_by[position]):
            yield weight, (*passed, position)
    elif layer == 0:
        yield 1.0, (position,)
    else:
        keys = [str(name) for name in rows["key"].values]
        for key in keys[: keys.index(position) + 1]:
            step = 0.5 * float(rows.sel(query=position, key=key)[layer - 1]) + 0.5 * (key == position)
            if step:
                for weight, passed in paths(rows, layer - 1, key):
                    yield step * weight, passed


@pytest.mark.parametrize(("n_thoughts", "n_layers"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_shares_are_those_of_all_paths(n_thoughts, n_layers, make_attention):
    attention = make_attention(1, n_layers, 3, n_thoughts, dtype="float64")["attention"].isel(problem=0)
    found = rollout(attention)
    rows = attention.mean("head")
    for query in query_names(n_thoughts):
        expected = dict.fromkeys(key_names(n_thoughts), 0.0)
        for weight, passed in paths(rows, n_layers, query):
            for place in passed:
                expected[place] += weight
        np.testing.assert_allclose(found.sel(query=query), list(expected.values()), rtol=0, atol=1e-12)


def test_even_rows_of_one_layer_in_closed_form(plant_attention):
    """One layer, one thought, each row even over the n positions that it sees, itself among them.

    bot sees 3 (first, question, bot): 1/6 of each other, ½ + 1/6 of itself. z1 sees 4 and was fed by bot, so that all
    sources have 1/8 and of z1's own ½ + 1/8 what bot had of them.
    """
    found = rollout(plant_attention(lambda q, k: 1.0, n_thoughts=1, n_problems=1, n_layers=1)["attention"])[0]
    np.testing.assert_allclose(found.sel(query=BOT, key=[FIRST, QUESTION, BOT]), [1 / 6, 1 / 6, 2 / 3], atol=1e-7)
    first, bot = 1 / 8 + 5 / 8 * 1 / 6, 1 / 8 + 5 / 8 * 2 / 3
    np.testing.assert_allclose(
        found.sel(query="z1", key=[FIRST, QUESTION, BOT, "z1"]), [first, first, bot, 5 / 8], atol=1e-7
    )
    # eot sees 5, one of them z1, of which the sources have what bot had of them.
    np.testing.assert_allclose(found.sel(query=EOT, key=FIRST), 1 / 10 + 1 / 10 * 1 / 6, atol=1e-7)
    np.testing.assert_allclose(found.sel(query=EOT, key=["z1", EOT]), [1 / 10, 3 / 5], atol=1e-7)


def test_without_attention_to_others_a_thought_is_what_bot_was(plant_attention):
    """Rows on themselves alone: nothing but the feedback connects positions, and it loses nothing."""
    found = rollout(plant_attention(lambda q, k: float(q == k), n_problems=1)["attention"])[0]
    for query in [BOT, *thought_names(6)]:
        assert float(found.sel(query=query, key=BOT)) == pytest.approx(1.0)
    assert found.sel(query="z4", key=["z1", "z2", "z3", "z4"]).values.tolist() == [1.0] * 4
    assert float(found.sel(query=EOT, key=EOT)) == float(found.sel(query=ANSWER, key=ANSWER)) == 1.0


@pytest.mark.parametrize("n_thoughts", [1, 2, 6, 24])
def test_sources_share_all_that_there_is(n_thoughts, make_attention):
    attention = make_attention(3, 2, 3, n_thoughts, dtype="float16")["attention"]
    found = rollout(attention)
    assert found.dims == ("problem", "query", "key")
    np.testing.assert_allclose(found.sel(key=SOURCES).sum("key"), 1.0, rtol=0, atol=1e-12)
    assert float(found.min()) >= 0 and float(found.max()) <= 1 + 1e-12


def test_nothing_comes_from_later_positions(make_attention):
    found = rollout(make_attention()["attention"])
    keys = key_names(6)
    for query in query_names(6):
        assert (found.sel(query=query, key=keys[keys.index(query) + 1 :]) == 0).all()


def test_what_passed_through_a_thought_brought_its_sources_along(make_attention):
    """What passed through z2 brought z2's sources along: a source has at least z2's part of what z2 was fed."""
    found = rollout(make_attention()["attention"])
    fed = found.sel(query="z1", key=[FIRST, QUESTION, BOT])
    for query in ("z2", "z5", ANSWER):
        passed = found.sel(query=query, key="z2", drop=True) * fed.drop_vars("query")
        assert (found.sel(query=query, key=fed["key"]) >= passed - 1e-12).all()


def test_a_missing_answer_row_is_missing_and_no_other(make_attention):
    found = rollout(make_attention(missing=(1, 3))["attention"])
    missing = found.isnull().all("key")
    assert missing.sel(query=ANSWER).values.tolist() == [False, True, False, True, False]
    assert not missing.sel(query=query_names(6)[:-1]).any()


def test_order_of_heads_and_dims_does_not_matter(make_attention):
    attention = make_attention()["attention"]
    expected = rollout(attention)
    turned = attention.isel(head=[2, 0, 1]).transpose("key", "head", "problem", "query", "layer")
    xr.testing.assert_allclose(rollout(turned).transpose(*expected.dims), expected, rtol=0, atol=1e-12)


def test_mean_over_problems_has_its_interval_and_count(make_attention):
    dataset = make_attention(12, missing=(4, 5))
    parts = [dataset.isel(problem=slice(5)), dataset.isel(problem=slice(5, None))]
    analysis = analyze(parts, correct=dataset["correct"], n_resamples=200)
    found = analysis.rollout
    of_problems = rollout(dataset["attention"])
    estimate, low, high = (found["rollout"].sel(value=name) for name in ("estimate", "low", "high"))
    np.testing.assert_allclose(estimate, np.nanmean(of_problems.values, axis=0), rtol=0, atol=1e-12)
    assert (low <= estimate + 1e-12).all() and (estimate <= high + 1e-12).all()
    assert int(found["n"].sel(query=ANSWER)) == 10 and int(found["n"].sel(query="z1")) == 12
    table = analysis_tables(analysis)["rollout"]
    row = table[(table["query"] == ANSWER) & (table["key"] == "z3")].iloc[0]
    assert list(table.columns) == ["query", "key", "estimate", "low", "high", "n"]
    assert (row["estimate"], row["n"]) == (float(estimate.sel(query=ANSWER, key="z3")), 10)


def test_the_answer_of_the_planted_model_reaches_thoughts_that_it_never_looks_at():
    """Its carrier looks at the last thought alone: earlier ones reach it by the feedback, the last one most."""
    from thoughtlens.models import PLANTED, planted_problems, planted_reasoner
    from thoughtlens.reasoning import reason, recorder_for

    reasoner, problems = planted_reasoner(), planted_problems(3, seed=1)
    recorder = recorder_for(reasoner, len(problems), 6)
    trace = reason(reasoner, [problem.question for problem in problems], taps=[recorder])
    dataset = attention_dataset(
        recorder.attention.numpy(),
        problem_ids=[problem.id for problem in problems],
        correct=np.ones(len(problems)),
        n_question_tokens=np.array(trace.n_question_tokens),
    )
    layer, head = PLANTED["carrier"]
    carrier = dataset["attention"].isel(layer=[layer], head=[head])
    found = rollout(carrier)
    looks = carrier.sel(query=ANSWER, key=thought_names(6)).isel(layer=0, head=0)
    np.testing.assert_allclose(looks.sel(key="z6"), 1.0, atol=1e-3)
    answer = found.sel(query=ANSWER)
    np.testing.assert_allclose(answer.sel(key="z6"), 0.5, atol=1e-3)
    # Half of each state is its own, and what z6 was fed is z5's state: at least ½ of ½, and so on back.
    for distance, thought in enumerate(reversed(thought_names(6))):
        assert (answer.sel(key=thought) >= 0.5 ** (distance + 1) - 1e-3).all()
    assert (np.diff(answer.sel(key=thought_names(6)), axis=-1) > 0).all()


def test_a_deep_model_whose_paths_all_end_on_the_prompt_ranks_nothing_by_rollout(caplog):
    """Thirty layers with random weights: each leaves an eighth or so to thoughts, so that next to nothing is left."""
    tokenizer = planted_reasoner().tokenizer
    markers = Markers(len(tokenizer))
    config = GPT2Config(
        vocab_size=markers.n_embeddings, n_positions=128, n_embd=16, n_layer=30, n_head=2, bos_token_id=0
    )
    config._attn_implementation = ATTENTION
    torch.manual_seed(0)
    deep = Codi(GPT2LMHeadModel(config).eval(), projection(16, 16).eval(), tokenizer, markers)
    dataset = measure(deep, [problem.question for problem in planted_problems(3, seed=0)], max_new_tokens=1)
    share = reached(rollout(dataset["attention"]))
    rows = [*thought_names(6)[1:], EOT]
    assert (share.sel(query=rows) < 1e-4).all()
    importances, _ = look(dataset, list(dataset["problem"].values))
    assert set(importances["thoughts"]) == set(importances["edges"]) == {"raw"}
    assert "less than 1% of the rows z2, z3, z4, z5, z6, eot reaches thoughts" in caplog.text
    assert "less than 1%" in headline(analyze(dataset, n_resamples=2))["rollout"]


def test_a_row_that_reaches_no_thought_is_left_out_of_importances(plant_attention, caplog):
    def weight(query, key):
        return float(key == FIRST) if query == "z6" else 20.0 if key[0] == "z" else 1.0

    dataset = plant_attention(weight, n_layers=9)
    share = reached(rollout(dataset["attention"])).mean("problem")
    assert share.sel(query="z6") < 0.01 < 0.3 < share.sel(query=["z2", "z5", EOT, ANSWER]).min()
    importances, _ = look(dataset, list(dataset["problem"].values))
    assert "of the rows z6 reaches thoughts" in caplog.text
    edges = [str(edge) for edge in importances["edges"]["rolled-out"]["unit"].values]
    assert len(edges) == 10
    assert not any(edge.startswith("z6") for edge in edges)
    expected = rollout(dataset["attention"]).sel(key="z5", query=[EOT, ANSWER]).mean("query")
    np.testing.assert_allclose(importances["thoughts"]["rolled-out"].sel(unit="z5"), expected)


def test_rows_that_reach_thoughts_are_all_ranked(make_attention):
    dataset = make_attention()
    assert rollout_note(reached(rollout(dataset["attention"])).mean("problem")) is None
    assert headline(analyze(dataset, n_resamples=2))["rollout"] is None
