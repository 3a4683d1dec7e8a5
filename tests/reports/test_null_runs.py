"""Random weights as a null, as a user meets it: `thoughtlens analyze RUN --null RUN`."""

import json

import pandas as pd
import pytest
from tests.commands import call, sentence

FILES = {"summary.json", "evidence_model.csv", "evidence_layer.csv", "evidence_head.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, its null, and runs that can't be its null."""
    folder = tmp_path_factory.mktemp("nulls")
    for n, seed in ((20, 42), (12, 1)):
        call("sample", "--problems", "arithmetic", "--n", n, "--seed", seed, "--out", folder / f"{n}.jsonl")
    for name, options in {
        "run": ["--record", "values"],
        "null": ["--random-weights", 0, "--record", "values"],
        "thoughts": ["--thoughts", 4, "--random-weights", 0],
        "llama": ["--model", "tiny-llama"],
    }.items():
        call("extract", "--problems", folder / "20.jsonl", "--out", folder / name, *options)
    call("extract", "--problems", folder / "12.jsonl", "--out", folder / "problems", "--random-weights", 0)
    return folder


def test_what_is_beyond_random_weights_is_told_and_written(folder):
    name = ("--name", "over-null")
    facts = json.loads(call("analyze", folder / "run", "--null", folder / "null", *name, "--json").stdout)["over_null"]
    written = folder / "run" / "analysis" / "over-null" / "over_null_run"
    assert {path.name for path in written.iterdir()} == FILES
    assert json.loads((written / "summary.json").read_text("utf-8")) == facts
    assert facts["null_run"]["model"]["name"] == "tiny-gpt2-random-weights-0"
    assert sum(facts["types"].values()) == 16
    assert facts["n"] == 20
    table = pd.read_csv(written / "evidence_model.csv", index_col="measure")
    for measure, found in facts["evidence"].items():
        assert found["estimate"] == pytest.approx(table.loc[measure, "estimate"])
        assert found["p"] == pytest.approx(table.loc[measure, "p"])
        assert found["low"] <= found["high"]
    own = pd.read_csv(folder / "run" / "analysis" / "over-null" / "evidence_model.csv", index_col="measure")
    null = json.loads(call("analyze", folder / "null", "--json").stdout)["evidence"]
    # Differences of single problems below 1e-6 count as rounding.
    apart = own.loc["sequential", "estimate"] - null["sequential"]["estimate"]
    assert facts["evidence"]["sequential"]["estimate"] == pytest.approx(apart, abs=1e-6)


def test_the_terminal_says_what_it_is_beyond(folder):
    text = call("analyze", folder / "run", "--null", folder / "null").stdout
    for word in ("beyond that of the null run", "tiny-gpt2-random-weights-0", "one draw of weights"):
        assert word in " ".join(text.split())


def test_another_pattern_has_a_folder_of_its_own(folder):
    call("analyze", folder / "run", "--null", folder / "null", "--pattern", "value-weighted", "--name", "moved")
    written = folder / "run" / "analysis" / "moved" / "over_null_run"
    assert {path.name for path in written.iterdir()} == FILES


@pytest.mark.parametrize(
    ("null", "part"),
    [
        ("thoughts", "it has thoughts 4 and not 6"),
        ("llama", "it has architecture llama and not gpt2"),
        ("problems", "problems of fingerprint"),
        ("nowhere", "expected a run folder"),
        ("run", "has the weights of"),
    ],
)
def test_a_null_that_is_none_ends_in_one_sentence_and_leaves_nothing(folder, null, part, tmp_path):
    call("extract", "--problems", folder / "20.jsonl", "--out", tmp_path / "run")
    said = sentence("analyze", tmp_path / "run", "--null", folder / null)
    assert part in said
    assert "--random-weights 0" in said or null == "nowhere"
    assert not (tmp_path / "run" / "analysis").exists()
