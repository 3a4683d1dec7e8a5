"""Random weights as a null, as a user meets it: `thoughtlens analyze RUN --null RUN --null-draws 20`."""

import json
import shutil

import pandas as pd
import pytest
from tests.commands import call, sentence

from thoughtlens.errors import OptionError
from thoughtlens.runs import open_run, random_weight_runs

FEW = ("--max-new-tokens", 12)
"""Random weights babble on to the last token."""
FILES = {"summary.json", "evidence_model.csv", "evidence_layer.csv", "evidence_head.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, its null, and runs that can't be its null."""
    folder = tmp_path_factory.mktemp("nulls")
    for name, n, seed in (("its", 20, 42), ("other", 5, 1)):
        call("sample", "--problems", "arithmetic", "--n", n, "--seed", seed, "--out", folder / f"{name}.jsonl")
    some = (folder / "its.jsonl").read_text("utf-8").splitlines(keepends=True)[:5]
    (folder / "some.jsonl").write_text("".join(some), "utf-8")
    for name, problems, options in (
        ("run", "its", ["--record", "values"]),
        ("null", "its", ["--random-weights", 3, "--record", "values"]),
        ("thoughts", "some", ["--thoughts", 4, "--random-weights", 0]),
        ("llama", "some", ["--model", "tiny-llama"]),
        ("problems", "other", ["--random-weights", 0]),
    ):
        call("extract", "--problems", folder / f"{problems}.jsonl", "--out", folder / name, *options, *FEW)
    return folder


def test_what_is_beyond_random_weights_is_told_and_written(folder):
    over = ("--null", folder / "null", "--null-draws", 2, "--name", "over-null", "--json")
    facts = json.loads(call("analyze", folder / "run", *over).stdout)["over_null"]
    written = folder / "run" / "analysis" / "over-null" / "over_null"
    assert {path.name for path in written.iterdir()} == FILES
    kept = json.loads((written / "summary.json").read_text("utf-8"))
    assert "--null-draws 2" in kept.pop("made_by")["call"]
    assert kept == facts
    names = [f"tiny-gpt2-random-weights-{seed}" for seed in (3, 0, 1)]
    assert [null["model"]["name"] for null in facts["null_runs"]] == names
    assert "48 heads of 3 null models: no p is below 0.02" in facts["note"]
    assert "none passes at 0.05 unless 7 do together" in facts["note"]
    assert sum(facts["types"].values()) == 16
    assert facts["n"] == 20
    table = pd.read_csv(written / "evidence_model.csv", index_col="measure")
    for measure, found in facts["evidence"].items():
        assert found["estimate"] == pytest.approx(table.loc[measure, "estimate"])
        assert found["p"] == pytest.approx(table.loc[measure, "p"], nan_ok=True) or found["p"] is None
        assert found["low"] <= found["high"]
    heads = pd.read_csv(written / "evidence_head.csv")
    null = pd.read_csv(folder / "run" / "analysis" / "over-null" / "evidence_head.csv")
    merged = heads.merge(null, on=["layer", "head", "measure"])
    pd.testing.assert_series_equal(merged["estimate_x"], merged["estimate_y"], check_names=False)
    assert (heads["n_null"].dropna() == 48).sum() > 0.8 * len(heads)
    assert heads["p"].min() == pytest.approx(1 / 49)


def test_null_models_are_kept_as_sums_and_used_again(folder, tmp_path, monkeypatch):
    """Of 100 problems at most; the same models without loading any when they are asked for again."""
    monkeypatch.setattr("thoughtlens.runs.extraction.MOST_PROBLEMS", 8)
    run = open_run(shutil.copytree(folder / "null", tmp_path / "run", ignore=shutil.ignore_patterns("nulls")))
    made = random_weight_runs(run, 2)
    assert [each.path.name for each in made] == ["0", "1"]
    assert all(each.keeps_means and len(each.problems()) == 8 for each in made)
    monkeypatch.setattr("thoughtlens.runs.extraction.reasoner_of", None)
    assert [each.manifest for each in random_weight_runs(run, 2)] == [each.manifest for each in made]
    with pytest.raises(OptionError, match="expected one or more of attention"):
        random_weight_runs(run, 2, pattern="value-weighted")


def test_a_run_of_random_weights_is_none_of_its_own_null_models(folder, tmp_path):
    run = open_run(shutil.copytree(folder / "problems", tmp_path / "run"))
    assert [each.path.name for each in random_weight_runs(run, 1)] == ["1"]


@pytest.fixture(scope="module")
def moved(folder):
    """What the terminal says of the values that one null model moves."""
    how = ("--pattern", "value-weighted", "--name", "moved", "--full")
    return call("analyze", folder / "run", "--null", folder / "null", *how).stdout


def test_the_terminal_says_what_it_is_beyond(moved):
    for word in ("tested against the heads of null models", "tiny-gpt2-random-weights-3", "none can pass at 0.05"):
        assert word in " ".join(moved.split())


def test_another_pattern_has_a_folder_of_its_own(folder, moved):
    written = folder / "run" / "analysis" / "moved" / "over_null"
    assert {path.name for path in written.iterdir()} == FILES


@pytest.mark.parametrize(
    ("null", "part"),
    [
        ("thoughts", "it has thoughts 4 and not 6"),
        ("llama", "it has architecture llama and not gpt2"),
        ("problems", "problems that the run has not"),
        ("nowhere", "expected a run folder"),
        ("run", "has the weights of"),
    ],
)
def test_a_null_that_is_none_ends_in_one_sentence_and_leaves_nothing(folder, null, part, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("analysis", "nulls"))
    said = sentence("analyze", tmp_path / "run", "--null", folder / null)
    assert part in said
    assert "--random-weights 0" in said or null == "nowhere"
    assert not (tmp_path / "run" / "analysis").exists()
