"""The model of a run comes back as it was, wherever it is now, or is refused."""

import json
from dataclasses import replace

import pytest
import torch
from tests.conftest import QUESTIONS, random_reasoner, usually
from tests.models.test_official_layout import Made

from thoughtlens.errors import CheckpointError
from thoughtlens.models import load, reasoner_of
from thoughtlens.problems import Problem
from thoughtlens.reasoning import reason
from thoughtlens.runs import extract

# peft asks transformers by a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROBLEMS = [Problem("p0", QUESTIONS[0], "8")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))


def run_of(reasoner, tmp_path):
    return extract(reasoner, PROBLEMS, tmp_path / "run", max_new_tokens=1)


def same_thoughts(one, other):
    first, second = (reason(model, QUESTIONS, max_new_tokens=1).thoughts for model in (one, other))
    return torch.equal(first, second)


@pytest.mark.parametrize("name", ["tiny-gpt2", "planted"])
# Float32 is what is loaded where nothing is said.
@pytest.mark.parametrize("dtype", usually("float64", of=["float32", "float64"]))
def test_a_bundled_model_comes_back(name, dtype, tmp_path):
    reasoner = load(name, dtype=dtype)
    found = reasoner_of(run_of(reasoner, tmp_path).manifest)
    assert found.provenance == reasoner.provenance
    assert same_thoughts(found, reasoner)


def test_an_official_checkpoint_comes_back_from_its_folder_and_base(tmp_path, tokenizer, monkeypatch):
    """Asked for by paths relative to a folder that is no longer the working directory, and with an alpha of its own."""
    Made(tmp_path, tokenizer, alpha=8)
    monkeypatch.chdir(tmp_path)
    reasoner = load("checkpoint", base="base", alpha=8)
    manifest = run_of(reasoner, tmp_path).manifest
    monkeypatch.chdir("/")
    found = reasoner_of(manifest)
    assert found.provenance["name"] == "checkpoint"
    assert same_thoughts(found, reasoner)


def test_a_moved_checkpoint_is_found_by_hand(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    reasoner = made.load()
    manifest = run_of(reasoner, tmp_path).manifest
    made.folder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"was in .*checkpoint, which is no folder now; pass --model"):
        reasoner_of(manifest)
    found = reasoner_of(manifest, model=tmp_path / "moved")
    assert found.provenance["name"] == reasoner.provenance["name"]
    assert same_thoughts(found, reasoner)
    made.base.rename(tmp_path / "moved base")
    assert same_thoughts(reasoner_of(manifest, model=tmp_path / "moved", base=tmp_path / "moved base"), reasoner)


def test_changed_weights_are_refused(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    manifest = run_of(made.load(), tmp_path).manifest
    made.save(made.state | {"prj.1.bias": made.state["prj.1.bias"] + 1})
    with pytest.raises(CheckpointError, match=r"checkpoint is not the model of the run: its sha256 is '\w{64}'"):
        reasoner_of(manifest)


def test_another_model_is_refused(tmp_path):
    manifest = run_of(load("tiny-gpt2"), tmp_path).manifest
    with pytest.raises(CheckpointError, match="tiny-gpt2-control is not the model of the run: its sha256 is"):
        reasoner_of(manifest, model="tiny-gpt2-control")


def test_a_run_of_a_model_that_was_never_loaded_is_refused(tmp_path, tokenizer):
    manifest = run_of(random_reasoner("gpt2", tokenizer), tmp_path).manifest
    with pytest.raises(CheckpointError, match="does not say which model it was made with"):
        reasoner_of(manifest)


def test_a_run_from_before_places_were_noted_is_asked_for_by_name(tmp_path):
    manifest = dict(run_of(load("planted"), tmp_path).manifest)
    del manifest["notes"]
    assert reasoner_of(manifest).provenance["name"] == "planted"


def test_where_the_model_was_decides_no_numbers(tmp_path):
    """A complete run is the same run from another place."""
    reasoner = load("planted")
    first = run_of(reasoner, tmp_path).manifest
    elsewhere = replace(reasoner, provenance={**reasoner.provenance, "source": {"model": "/elsewhere", "base": None}})
    again = run_of(elsewhere, tmp_path).manifest
    assert json.dumps(first["options"]) == json.dumps(again["options"])


def test_a_pinned_base_is_asked_for_again(tmp_path, monkeypatch):
    """The Hub's base may have moved on since; its revision decides configuration and tokenizer."""
    manifest = json.loads(json.dumps(run_of(load("planted"), tmp_path).manifest))
    manifest["options"]["model"] |= {"revision": "a" * 40, "base_revision": "b" * 40}
    manifest["notes"]["model_source"] = {"model": "owner/model", "base": "owner/base"}
    asked = {}
    monkeypatch.setattr(
        "thoughtlens.models.loader.load", lambda *given, **options: asked.update(options) or load("planted")
    )
    reasoner_of(manifest)
    assert (asked["base"], asked["revision"], asked["base_revision"]) == ("owner/base", "a" * 40, "b" * 40)
