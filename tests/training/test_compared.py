"""What a card sets side by side, on the bundled models."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.attention_made import unsaved

from thoughtlens.analysis import analyze
from thoughtlens.errors import CheckpointError
from thoughtlens.models import bundled, load, read_card
from thoughtlens.problems import draw, load_set
from thoughtlens.runs import extract
from thoughtlens.training import as_markdown, rivals, seeds

FOLDERS = [bundled()["tiny-gpt2"], bundled()["tiny-gpt2-control"]]


@pytest.mark.parametrize("name", bundled())
def test_page_of_a_card_is_the_bundled_readme(name):
    assert as_markdown(read_card(name)).encode() == (bundled()[name] / "README.md").read_bytes()


def test_rivals_are_what_their_cards_say(tmp_path):
    found = rivals(FOLDERS)
    assert [row["name"] for row in found] == ["tiny-gpt2", "tiny-gpt2-control"]
    assert [row["accuracy"] for row in found] == [read_card(row["name"])["accuracy"]["own"] for row in found]
    with pytest.raises(CheckpointError, match=r"has no card\.json"):
        rivals([tmp_path])


def test_seeds_are_what_a_run_of_each_gives(tmp_path):
    problems, done = draw(load_set("arithmetic"), 12), []
    found = seeds(FOLDERS, problems, done.append)
    assert sum(done) == 2
    importance = []
    for row, folder in zip(found["models"], FOLDERS, strict=True):
        with unsaved():
            analysis = analyze(extract(load(folder), problems, tmp_path / folder.name), n_resamples=20)
        assert row["preferred"]["thought"] == analysis.model["preferred"].item()
        assert row["preferred"]["estimate"] == pytest.approx(
            float(analysis.model["largest_preference"].sel(value="estimate"))
        )
        assert row["top_heads"] == list(analysis.ranking["name"].values[:5])
        importance.append(np.nan_to_num(analysis.heads["importance"].sel(value="estimate").values.ravel()))
    assert found["agreement"] == [pytest.approx(spearmanr(*importance).statistic, abs=1e-3)]
    page = as_markdown(read_card("tiny-gpt2") | {"seeds": json.loads(json.dumps(found, allow_nan=False))})
    assert "Rank correlation of the heads' importance" in page
