import numpy as np
import pytest

from thoughtlens.analysis import rollout
from thoughtlens.analysis.attention_against_effects import edge_importance, head_importance, thought_importance
from thoughtlens.notation import ANSWER, EOT, thought_names

THOUGHTS = thought_names(4)
ROWS = [*THOUGHTS[1:], EOT, ANSWER]


@pytest.fixture
def attention(make_attention):
    return make_attention(3, 2, 3, 4, missing=(1,))["attention"].astype("float64")


def earlier(row):
    return THOUGHTS[: THOUGHTS.index(row)] if row in THOUGHTS else THOUGHTS


def known(attention, problem, row):
    return not (problem == 1 and row == ANSWER)


def cell(attention, row, key, **place):
    return attention.sel(query=row, key=key).isel(place).item()


def test_a_heads_importance_is_what_its_rows_give_to_earlier_thoughts(attention):
    found = head_importance(attention)
    for problem in range(3):
        rows = [row for row in ROWS if known(attention, problem, row)]
        given = [sum(cell(attention, r, k, problem=problem, layer=1, head=2) for k in earlier(r)) for r in rows]
        assert found.sel(unit="L1H2").isel(problem=problem).item() == pytest.approx(np.mean(given))
    assert found["unit"].values.tolist() == [f"L{layer}H{head}" for layer in range(2) for head in range(3)]


def test_a_thoughts_importance_is_its_mean_weight_in_the_rows_after_it(attention):
    found = thought_importance(attention)
    for problem, thought in ((0, "z1"), (1, "z3"), (2, "z4")):
        rows = [row for row in ROWS if thought in earlier(row) and known(attention, problem, row)]
        means = [attention.sel(query=row, key=thought).isel(problem=problem).mean().item() for row in rows]
        assert found.sel(unit=thought).isel(problem=problem).item() == pytest.approx(np.mean(means))


def test_being_seen_by_more_rows_makes_no_thought_important(plant_attention):
    even = plant_attention(lambda query, key: 1.0, n_thoughts=4)["attention"]
    rows = thought_importance(even).isel(problem=0)
    # Row q sees 3 + q positions, so that later rows give less; a plain sum would make z1 five times z4.
    assert rows.sel(unit="z1") < 2 * rows.sel(unit="z4")


def test_an_edges_importance_is_its_mean_weight(attention):
    found = edge_importance(attention)
    assert found["unit"].values.tolist()[:3] == ["z2 ⊣ z1", "z3 ⊣ z1", "z3 ⊣ z2"]
    expected = attention.sel(query="z4", key="z2").mean(("layer", "head"))
    np.testing.assert_allclose(found.sel(unit="z4 ⊣ z2"), expected)


def test_rolled_out_attention_has_importances_without_heads(attention):
    rolled = rollout(attention)
    np.testing.assert_allclose(edge_importance(rolled).sel(unit="z3 ⊣ z1"), rolled.sel(query="z3", key="z1"))
    assert thought_importance(rolled).notnull().all()
