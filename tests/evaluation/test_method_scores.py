"""The scorecard of methods, against closed forms on the planted model and a naive count of pairs."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.commands import call, sentence, unrendered

from thoughtlens.evaluation import SUBJECTS, scorecard
from thoughtlens.evaluation.ranking_scorecard import auroc, recovered
from thoughtlens.models import planted_reasoner

PLANTED = replace(
    next(subject for subject in SUBJECTS if subject.name == "planted"),
    reasoner=lambda: planted_reasoner(n_thoughts=3),
    edges=frozenset({"answer ⊣ z3"}),
)
N_HEADS, N_EDGES = 8, 9


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    with unrendered("png", "svg", "pdf"):
        return scorecard(tmp_path_factory.mktemp("known"), subjects=[PLANTED], n=3)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """The same model, as one whose circuit is not known: other problems score what some problems ranked."""
    subject = replace(PLANTED, name="planted, not told", heads=None, edges=None)
    with pytest.MonkeyPatch.context() as patch, unrendered("png", "svg", "pdf"):
        patch.setattr("thoughtlens.evaluation.ranking_scorecard.N_RANDOM", 3)
        return scorecard(tmp_path_factory.mktemp("unknown"), subjects=[subject], n=3)


def by_ranking(table, units, score):
    rows = table[(table["units"] == units) & (table["score"] == score)]
    return rows.set_index("ranking")["estimate"]


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    importance, in_circuit = rng.integers(0, 4, (5, 9)), np.arange(9) % 3 == 0
    pairs = [[(a > b) + 0.5 * (a == b) for a, b in product(row[in_circuit], row[~in_circuit])] for row in importance]
    assert auroc(importance, in_circuit) == pytest.approx(np.mean(pairs, axis=1))


def test_recovered_is_nought_with_nothing_and_one_with_everything():
    f = recovered(xr.DataArray([[-9.0, -3.0, -1.0]], dims=("resample", "k")))
    assert f.values.tolist() == [[0.0, 0.75, 1.0]]


def test_cutting_finds_the_planted_carrier_and_attention_does_not(known):
    heads = by_ranking(known.scores, "heads", "AUROC")
    assert (heads[["zero", "mean", "resample", "noise"]] == 1.0).all()
    # Hub, sequential, skip and thoughts attend more to thoughts than the carrier, and write where nothing reads.
    assert (heads[["attention", "excess attention"]] < 0.5).all()
    # A head's weights are large and so is what they move: only where it goes is nothing.
    assert heads["value-weighted"] < 1.0
    assert set(known.scores["n_units"]) == {N_HEADS, N_EDGES}


def test_an_edge_with_a_stand_in_is_found_by_zeroing_and_not_by_blocking(known):
    edges = by_ranking(known.scores, "edges", "AUROC")
    # Blocked, the answer looks at the thought before the last, which holds the same number.
    assert edges["zero"] == 1.0
    assert edges["block"] < 1.0


def test_circuits_of_one_head_have_the_areas_of_a_step(unknown, known):
    cpr, cmd = (by_ranking(unknown.scores, "heads", score) for score in ("CPR", "CMD"))
    assert (cpr + cmd).to_numpy() == pytest.approx(1.0, abs=1e-3)  # no circuit does better than the whole model
    # All is recovered from the moment the carrier is kept: at k = 1 + how many heads stand before it.
    assert cpr["resample"] == pytest.approx(1 - 0.5 / N_HEADS, abs=1e-3)
    curve = unknown.curves.query("units == 'heads' and ranking == 'attention'").set_index("k")["f"]
    n_before = round((1 - by_ranking(known.scores, "heads", "AUROC")["attention"]) * (N_HEADS - 1))
    assert curve.to_numpy() == pytest.approx(1.0 * (np.arange(N_HEADS + 1) > n_before), abs=1e-3)
    assert cpr["attention"] == pytest.approx(1 - (n_before + 0.5) / N_HEADS, abs=1e-3)
    assert cpr["attention"] < cpr["random"] < cpr["resample"]


def test_the_command_writes_a_table_and_a_figure(tmp_path):
    said = call("scorecard", "--model", "planted", "--n", 2, "--out", tmp_path).stdout
    written = pd.read_csv(tmp_path / "scorecard.csv")
    assert by_ranking(written, "heads", "AUROC")["resample"] == 1.0
    assert "resample" in said
    assert (tmp_path / "scorecard.png").exists()


def test_wrong_calls(tmp_path):
    assert "expected at least 2" in sentence("scorecard", "--n", 1, "--out", tmp_path)
    assert "no model 'tiny'" in sentence("scorecard", "--model", "tiny", "--out", tmp_path)
