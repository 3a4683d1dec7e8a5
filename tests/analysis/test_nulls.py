"""Nulls against a naive loop over tokens, exact enumeration of permutations, and attention that is its own null."""

from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from tests.models.test_planted import measure, measured
from transformers import GPT2Config, GPT2LMHeadModel

from thoughtlens.analysis import (
    analyze,
    causal_uniform,
    excess,
    from_run,
    moments,
    permuted,
    row_mass_preserving,
    thought_map,
)
from thoughtlens.analysis.nulls import token_shares
from thoughtlens.errors import RunError
from thoughtlens.models import PLANTED, Codi, Markers, planted_problems, planted_reasoner, projection
from thoughtlens.notation import key_names, query_names, thought_names
from thoughtlens.taps import ATTENTION


def shares_token_by_token(n_thoughts: int, n_question: int) -> xr.DataArray:
    """Every token of a text laid out in a line; each row spreads over what stands before it and itself."""
    line = ["first", *["question"] * (n_question - 1), *query_names(n_thoughts)[:-1]]
    shares = np.zeros((n_thoughts + 3, n_thoughts + 5))
    for row, query in enumerate(query_names(n_thoughts)):
        seen = line[: line.index(query) + 1] if query != "answer" else line
        for token in seen:
            shares[row, key_names(n_thoughts).index(token)] += 1 / len(seen)
    return xr.DataArray(shares, dims=("query", "key"))


def uniform_attention(make_attention, n_thoughts: int, n_answer: int, lengths: list[int]) -> xr.Dataset:
    """Rows even over tokens, the answer row over `n_answer` answer tokens too."""
    dataset = make_attention(n_problems=len(lengths), n_thoughts=n_thoughts)
    values = np.empty(dataset["attention"].shape)
    for problem, length in enumerate(lengths):
        rows = shares_token_by_token(n_thoughts, length).values
        n_before = length + n_thoughts + 2
        rows[-1] *= n_before / (n_before + n_answer)
        rows[-1, -1] = n_answer / (n_before + n_answer)
        values[problem] = rows
    return dataset.assign(
        attention=(dataset["attention"].dims, values), n_question_tokens=("problem", np.array(lengths, dtype=np.int32))
    )


@pytest.mark.parametrize("n_thoughts", [1, 2, 6])
@pytest.mark.parametrize("n_question", [1, 2, 30])
def test_token_shares_are_those_of_a_line_of_tokens(n_thoughts, n_question):
    expected = shares_token_by_token(n_thoughts, n_question)
    np.testing.assert_allclose(token_shares(n_thoughts, n_question), expected, atol=1e-15)


@pytest.mark.parametrize("n_thoughts", [2, 6, 24])
@pytest.mark.parametrize("n_answer", [1, 5])
def test_even_rows_are_their_own_null(make_attention, n_thoughts, n_answer):
    dataset = uniform_attention(make_attention, n_thoughts, n_answer, [1, 17, 40])
    null = causal_uniform(dataset["attention"], dataset["n_question_tokens"])
    np.testing.assert_allclose(excess(dataset["attention"], null), 0.0, atol=1e-12)


def test_rows_of_every_null_keep_their_mass(make_attention):
    attention = make_attention(missing=(1,))["attention"]
    null = causal_uniform(attention, 9)
    assert null.dims == attention.dims
    np.testing.assert_allclose(null.sum("key", skipna=False), attention.sum("key", skipna=False), atol=1e-6)
    for thoughts in (row_mass_preserving(attention), permuted(attention)):
        np.testing.assert_allclose(thoughts.sum("key"), thought_map(attention).sum("key"), atol=1e-6)


def test_row_mass_is_spread_evenly_and_self_attention_stays(make_attention):
    attention = make_attention(n_problems=2)["attention"]
    null, cells = row_mass_preserving(attention), thought_map(attention)
    for q in range(6):
        row = null.isel(query=q)
        mean = cells.isel(query=q, key=slice(q)).mean("key") if q else None
        for k in range(q):
            np.testing.assert_allclose(row.isel(key=k), mean, rtol=1e-6)
        np.testing.assert_array_equal(row.isel(key=q), cells.isel(query=q, key=q))
        assert (row.isel(key=slice(q + 1, None)) == 0).all()


def test_permuted_rows_hold_the_same_cells_in_every_order_alike(make_attention):
    dataset = make_attention(n_problems=1, n_layers=1, n_heads=1)
    many = dataset["attention"].isel(problem=np.zeros(6000, dtype=int))
    drawn, cells = permuted(many, seed=1), thought_map(many)
    earlier = {"query": 3, "key": slice(3)}
    rows = drawn.isel(earlier).values.reshape(-1, 3)
    expected = {tuple(order) for order in permutations(cells.isel(earlier, drop=True).values[0, 0, 0])}
    found, counts = np.unique(rows, axis=0, return_counts=True)
    assert {tuple(row) for row in found.astype(np.float32)} == expected
    # 1,000 of each order: standard deviation 29.
    np.testing.assert_allclose(counts, 1000, atol=120)
    np.testing.assert_array_equal(drawn.isel(query=3, key=slice(3, None)), cells.isel(query=3, key=slice(3, None)))


def test_mean_of_permutations_is_the_row_mass_preserving_null(make_attention):
    dataset = make_attention(n_problems=1, n_layers=1, n_heads=1)
    many = dataset["attention"].isel(problem=np.zeros(20_000, dtype=int))
    expected = row_mass_preserving(dataset["attention"]).isel(problem=0)
    np.testing.assert_allclose(permuted(many).mean("problem"), expected, atol=0.004)


def test_permutations_of_rows_are_drawn_apart(make_attention):
    attention = make_attention(n_problems=50)["attention"]
    assert not permuted(attention, seed=0).equals(permuted(attention, seed=1))
    xr.testing.assert_identical(permuted(attention, seed=0), permuted(attention, seed=0))


def test_another_run_is_expected_by_its_mean_map(make_attention):
    mine, other = make_attention(seed=0), make_attention(n_problems=9, seed=1)
    null = from_run(moments([other["attention"]]))
    found = excess(mine["attention"], null)
    layer_mean = other["attention"].astype(np.float64).mean(("problem", "head"))
    np.testing.assert_allclose(found, mine["attention"] - layer_mean, atol=1e-6)
    assert found.dims == mine["attention"].dims


def test_same_run_as_its_own_null_has_no_excess_on_average(make_attention):
    attention = make_attention()["attention"]
    found = excess(attention, from_run(moments([attention])))
    np.testing.assert_allclose(found.mean(("problem", "head")), 0.0, atol=1e-7)


@pytest.mark.parametrize("other", [{"n_thoughts": 5}, {"n_thoughts": 7}, {"n_layers": 3}, {"n_layers": 1}])
def test_a_null_of_another_shape_is_refused(make_attention, other):
    null = from_run(moments([make_attention(**other)["attention"]]))
    with pytest.raises(RunError, match="same architecture and number of thoughts"):
        excess(make_attention()["attention"], null)


def random_weights(questions: list[str]) -> xr.Dataset:
    """A GPT-2 of the planted model's shape whose weights are drawn as GPT-2's own are."""
    torch.manual_seed(0)
    tokenizer = planted_reasoner().tokenizer
    markers = Markers(len(tokenizer))
    layers, heads = (max(places) + 1 for places in zip(*PLANTED.values(), strict=True))
    config = GPT2Config(
        vocab_size=markers.n_embeddings, n_positions=128, n_embd=64, n_layer=layers, n_head=heads, bos_token_id=0
    )
    config._attn_implementation = ATTENTION
    lm = GPT2LMHeadModel(config).eval()
    return measure(Codi(lm, projection(64, 64).eval(), tokenizer, markers), questions, max_new_tokens=1)


def test_random_weights_look_evenly_and_what_was_planted_is_beyond_them():
    questions = [problem.question for problem in planted_problems(40, seed=3)]
    untrained, trained = random_weights(questions), measured("default")
    # Weights of standard deviation 0.02 move a softmax by a few hundredths of a share.
    even = causal_uniform(untrained["attention"], untrained["n_question_tokens"])
    thoughts = thought_names(6)
    np.testing.assert_allclose(
        untrained["attention"].sel(query=thoughts).mean("problem"), even.sel(query=thoughts).mean("problem"), atol=0.02
    )
    found = analyze(untrained, correct=untrained["correct"], n_resamples=5)
    assert (found.evidence["type"] == "no clear type").all()
    beyond = excess(trained["attention"], from_run(moments([untrained["attention"]]))).mean("problem")
    for role, (layer, head) in PLANTED.items():
        at_hub = beyond.sel(layer=layer, head=head, query=thoughts[2:], key="z1").min().item()
        assert (at_hub > 0.6) == (role == "hub"), role
