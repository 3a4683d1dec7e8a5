"""Runs and groups side by side as a user meets them: `thoughtlens compare`, `thoughtlens analyze --by`."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tests.commands import call, sentence, undrawn

from thoughtlens import schema
from thoughtlens.analysis import compare, open_analysis
from thoughtlens.analysis.attention_evidence import find_types
from thoughtlens.analysis.heads import type_counts
from thoughtlens.errors import OptionError
from thoughtlens.reports import labelled, write_comparison
from thoughtlens.runs import open_run

MODELS = ("tiny-gpt2", "tiny-gpt2-control", "tiny-llama")
TABLES = {
    "comparison.json", "models.csv", "differences.csv", "rank_correlations.csv", "type_counts.csv", "head_types.csv",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of three bundled models on the same 40 problems."""
    folder = tmp_path_factory.mktemp("runs")
    call("sample", "--problems", "arithmetic", "--n", 40, "--out", folder / "some.jsonl")
    for model in MODELS:
        call("extract", "--model", model, "--problems", folder / "some.jsonl", "--out", folder / model)
    return [folder / model for model in MODELS]


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    """The folder of a comparison of all three, and what the command said of it."""
    out = tmp_path_factory.mktemp("compared") / "together"
    return out, json.loads(call("compare", *runs, "--out", out, "--json").stdout)


@pytest.fixture(scope="module")
def analysed(runs):
    """Each of them analyzed, and its headline numbers by folder."""
    return {run: json.loads(call("analyze", run, "--json").stdout) for run in runs}


@pytest.fixture(scope="module")
def pair(runs, tmp_path_factory):
    """The folder of a comparison of the first two, called a and b, and what the terminal showed."""
    out = tmp_path_factory.mktemp("pair") / "out"
    return out, call("compare", *runs[:2], *LABELS, "--out", out, "--full").stdout


@pytest.fixture(autouse=True)
def figures():
    """Comparisons made by tests show nothing; those that several tests share are drawn."""
    with undrawn():
        yield


LABELS = ("--label", "a", "--label", "b")


def few(folder, rows, *options, model="planted"):
    """A run on problems given as rows; the planted model has half of the heads of others."""
    file = folder.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    call("extract", "--model", model, "--problems", file, "--out", folder, *options)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run of the planted model on three problems: to be copied, not changed."""
    return few(tmp_path_factory.mktemp("three") / "one", asked(2, 3, 4))


def asked(*starts):
    return [
        {
            "id": f"p{i}",
            "question": f"Tom has {n} pens. He buys 3 more. How many pens does he have?",
            "answer": str(n + 3),
        }
        for i, n in enumerate(starts)
    ]


def test_three_models_end_in_tables_that_agree_with_their_runs(runs, analysed, compared):
    out, facts = compared[0], dict(compared[1])
    assert {path.name for path in out.glob("[!.]*")} == TABLES | {
        "model_comparison.png",
        "model_comparison.svg",
        "model_comparison.pdf",
    }
    files = facts.pop("files")
    assert facts == json.loads((out / "comparison.json").read_text("utf-8"))
    assert {path.rsplit("/", 1)[1] for path in files} == TABLES | {
        "model_comparison.png",
        "model_comparison.svg",
        "model_comparison.pdf",
    }
    assert list(facts["own"]) == list(MODELS)
    correct = [[row["correct"] for row in open_run(run).results()] for run in runs]
    for model, right in zip(MODELS, correct, strict=True):
        assert facts["own"][model]["accuracy"]["estimate"] == pytest.approx(np.mean(right))
    flow = [open_analysis(open_run(run)).model["sequential"] for run in analysed]
    table = pd.read_csv(out / "differences.csv", keep_default_na=False)
    for place, model in enumerate(MODELS[1:], start=1):
        row = table[(table["model"] == model) & (table["measure"] == "sequential") & (table["depth"] == "all")]
        expected = (flow[place] - flow[0]).sel(value="estimate").item()
        assert row["estimate"].item() == pytest.approx(expected)
        assert row["minus"].item() == "tiny-gpt2"
        assert row["n"].item() == 40


def test_the_terminal_shows_models_differences_and_notes(pair):
    text = pair[1]
    words = (
        "b − a",
        "accuracy",
        "preference for z4",
        "p (Holm)",
        "All have the same 40 problems",
    )
    for word in (*words, "types of heads"):
        assert word in text


def test_seeds_of_recipes_end_in_tables_and_a_figure(runs, tmp_path):
    groups = ("--group", f"gpt={runs[0]},{runs[1]}", "--group", f"llama={runs[2]}", "--out", tmp_path / "out")
    text = " ".join(call("compare", *groups, "--full").stdout.split())
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    written = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert written == (TABLES - {"models.csv"}) | {
        "recipes.csv",
        "model_comparison.png",
        "model_comparison.svg",
        "model_comparison.pdf",
    }
    assert facts["recipes"] == {"gpt": [str(runs[0]), str(runs[1])], "llama": [str(runs[2])]}
    assert [pair["of"] for pair in facts["differences"]] == ["llama"]
    assert any("hold for these weights, not for the recipes" in note for note in facts["notes"])
    table = pd.read_csv(tmp_path / "out" / "recipes.csv").query("measure == 'accuracy'").set_index("recipe")
    right = [np.mean([row["correct"] for row in open_run(run).results()]) for run in runs]
    assert table.loc["gpt", "estimate"] == pytest.approx(np.mean(right[:2]))
    assert table["n_models"].to_dict() == {"gpt": 2, "llama": 1}
    for words in ("llama − gpt", "over models of each", "fewer than 3 on a side"):
        assert words in text
    swapped = ("--group", f"gpt={runs[0]}", "--group", f"llama={runs[1]},{runs[2]}", "--out", tmp_path / "out")
    assert "holds another comparison" in sentence("compare", *swapped)


def test_wrong_groups_end_in_one_sentence(runs, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "expected NAME=RUN,RUN,…" in sentence("compare", "--group", "gpt", *out)
    assert "name runs alone, or groups alone" in sentence("compare", runs[0], "--group", f"a={runs[1]}", *out)
    assert "found 1 groups with 1 runs" in sentence("compare", "--group", f"a={runs[1]}", *out)
    again = shutil.copytree(runs[0], tmp_path / "again")
    assert "has the weights of" in sentence("compare", "--group", f"a={runs[0]}", "--group", f"b={again}", *out)


def test_types_of_heads_are_those_of_each_runs_own_analysis(analysed, compared):
    out, facts = compared
    types = pd.read_csv(out / "head_types.csv")
    for model, (run, own) in zip(MODELS, analysed.items(), strict=True):
        assert facts["own"][model]["types"] == own["types"]
        heads = pd.read_csv(run / "analysis" / "heads.csv").merge(types[types["model"] == model], on=["layer", "head"])
        assert len(heads) == 16
        assert (heads["type_x"] == heads["type_y"]).all()


def test_types_are_of_the_problems_that_are_not_compared(runs, tmp_path):
    facts = json.loads(call("compare", *runs[:2], "--holdout", 0.4, "--out", tmp_path / "out", "--json").stdout)
    run = open_run(runs[0])
    tested = schema.tested_half([problem.id for problem in run.problems()], 0.4)
    types = find_types(run.blocks(chosen=~tested), n_problems=int((~tested).sum()))
    assert facts["own"]["tiny-gpt2"]["n"] == tested.sum()
    assert facts["own"]["tiny-gpt2"]["types"] == type_counts(types)
    assert facts["holdout"] == {"share": 0.4, "seed": 0}
    assert "it is of" in sentence("compare", *runs[1:], "--out", tmp_path / "out")
    assert "holdout" in sentence("compare", *runs[:2], "--out", tmp_path / "out")


def test_a_run_compared_with_itself_differs_by_nothing(runs, tmp_path):
    call("compare", runs[0], runs[0], "--label", "once", "--label", "again", "--out", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert (table[["estimate", "low", "high"]] == 0.0).all(axis=None)
    assert (table["p"] == 1.0).all()
    correlations = pd.read_csv(tmp_path / "out" / "rank_correlations.csv")
    np.testing.assert_allclose(correlations[["estimate", "low", "high"]], 1.0)


def test_runs_of_one_model_are_called_by_their_folders(runs, tmp_path):
    other = shutil.copytree(runs[2], tmp_path / "other")
    assert list(labelled([open_run(runs[2]), open_run(other)])) == ["tiny-llama", "other"]


def test_equal_ids_of_other_questions_are_other_problems(three, tmp_path):
    other = few(tmp_path / "other", asked(5, 6, 7))
    of = {"one": open_run(three), "other": open_run(other)}
    facts = write_comparison(tmp_path / "out", of, n_resamples=20)
    assert facts["paired"] is False
    assert "fewer than two problems in common (one has 3, other has 3)" in facts["notes"][0]
    assert {(row["low"], row["high"]) for row in facts["rank_correlations"]} == {(None, None)}
    part = few(tmp_path / "part", asked(2, 3, 9, 10))
    found = compare({"one": open_run(three), "part": open_run(part)}, n_resamples=20)
    assert found.measures.attrs["paired"] is True
    assert found.measures["n"].values.tolist() == [2, 2]


def test_runs_of_other_numbers_of_thoughts_are_written_without_what_is_undefined(tmp_path):
    one = few(tmp_path / "one", asked(2, 3, 4, 5, 6))
    other = few(tmp_path / "two", asked(2, 3, 4, 5, 6), "--thoughts", 2)
    text = call("compare", one, other, "--out", tmp_path / "out", "--full").stdout
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert any("numbers of thoughts differ" in note for note in facts["notes"])
    assert facts["own"]["two"]["preference"]["z1"] == {"estimate": None, "low": None, "high": None}
    assert "undefined" in text


def test_chosen_problems_are_those_of_the_whole(runs):
    run = open_run(runs[0])
    chosen = np.arange(40) % 3 == 1
    parts = list(run.blocks(5, chosen=chosen))
    assert [part.sizes["problem"] for part in parts] == [5, 5, 3]
    together = np.concatenate([part["attention"].values for part in parts])
    np.testing.assert_array_equal(together, run.attention["attention"].values[chosen].astype(np.float32))


def test_analyze_by_writes_each_group_and_their_differences(runs, tmp_path):
    # Every second of twelve has another answer; five have one step, six have two, and one alone has three.
    rows = [json.loads(line) for line in (runs[0] / "problems.jsonl").read_text("utf-8").splitlines()[:12]]
    for place, row in enumerate(rows):
        row |= {
            "answer": "-1" if place % 2 else row["answer"],
            "steps": ["<<1+1=2>>"] * (1 + (place > 4) + (place > 10)),
        }
    run = few(tmp_path / "run", rows, model="tiny-gpt2")
    facts = json.loads(call("analyze", run, "--by", "correct", "--by", "n_steps", "--name", "groups", "--json").stdout)
    results = open_run(run).results()
    steps = [len(json.loads(line)["steps"]) for line in (run / "problems.jsonl").read_text("utf-8").splitlines()]
    expected = {
        "correct": pd.Series(["solved" if row["correct"] else "failed" for row in results]).value_counts().to_dict(),
        "n_steps": pd.Series(steps).astype(str).value_counts().to_dict(),
    }
    for grouped in facts["groups"]:
        folder = run / "analysis" / "groups" / f"by_{grouped['by']}"
        sizes = {group: n for group, n in expected[grouped["by"]].items() if n > 1}
        assert {group: numbers["n"] for group, numbers in grouped["own"].items()} == sizes
        assert len(sizes) == 2 <= len(expected[grouped["by"]])
        assert {path.name for path in folder.glob("[!.]*")} == {*sizes, "groups.csv"}
        tables = (path.name for path in (run / "analysis" / "groups").glob("[!.]*") if path.is_file())
        whole = {name for name in tables if not name.startswith("analysis.npz")}
        for group, n in sizes.items():
            assert {path.name for path in (folder / group).glob("[!.]*")} == whole
            own = json.loads((folder / group / "summary.json").read_text("utf-8"))
            assert own["n"] == n
            assert own["sequential"]["low"] == pytest.approx(grouped["own"][group]["sequential"]["low"])
    table = pd.read_csv(run / "analysis" / "groups" / "by_correct" / "groups.csv", keep_default_na=False)
    assert "accuracy" not in set(table["measure"])
    assert "accuracy" in set(pd.read_csv(run / "analysis" / "groups" / "by_n_steps" / "groups.csv")["measure"])


def test_a_group_of_too_few_is_said_in_the_terminal(tmp_path):
    wrong = [row | {"answer": "-1"} for row in asked(2, 3, 4)]
    text = call("analyze", few(tmp_path / "run", wrong), "--by", "correct").stdout
    assert "solved has no problems, too few to be compared, and is left out." in text
    assert "failed is the only group" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["one"], "expected two or more to compare"),
        (["one", "one"], "give each run a --label"),
        (["one", "other", "--label", "x"], "found 1 labels for 2 runs"),
        (["one", "other", "--label", "x", "--label", "x"], "2 runs are called 'x'"),
        (["one", "nowhere"], "expected a run folder"),
    ],
    ids=["one", "twice", "few labels", "same labels", "no run"],
)
def test_wrong_runs_or_labels_end_in_one_sentence_and_leave_nothing(runs, tmp_path, arguments, part):
    named = {"one": runs[0], "other": runs[1], "nowhere": tmp_path / "nowhere"}
    out = tmp_path / "out"
    assert part in sentence("compare", *(named.get(name, name) for name in arguments), "--out", out)
    assert not out.exists()


def test_a_folder_holds_one_comparison(runs, pair, tmp_path):
    out, labels = shutil.copytree(pair[0], tmp_path / "out"), LABELS
    before = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    # The same runs from a copy elsewhere are the same comparison.
    copied = shutil.copytree(runs[1], tmp_path / "copied")
    call("compare", runs[0], copied, *labels, "--out", out)
    swapped = sentence("compare", *runs[:2], "--label", "b", "--label", "a", "--out", out)
    assert f"{out} holds another comparison: it is of a and b and not of b and a; name another --out" in swapped
    assert "b.model.name is 'tiny-gpt2-control' there and 'tiny-llama' here" in sentence(
        "compare", runs[0], runs[2], *labels, "--out", out
    )
    one, other = (open_run(run) for run in runs[:2])
    with pytest.raises(OptionError, match="n_resamples is 1000 there and 50 here; seed is 0 there and 1 here"):
        write_comparison(out, {"a": one, "b": other}, n_resamples=50, seed=1)
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == before
    facts = json.loads(call("compare", runs[0], runs[2], "--out", out, "--force", "--json").stdout)
    assert set(pd.read_csv(out / "models.csv")["model"]) == {"tiny-gpt2", "tiny-llama"} == set(facts["runs"])
    for content in ("{", "{}", "[]"):
        (out / "comparison.json").write_text(content, "utf-8")
        assert "can't be read as a comparison" in sentence("compare", runs[0], runs[2], "--out", out)


def test_a_file_in_the_way_is_said(runs, tmp_path):
    (tmp_path / "out").write_text("mine", "utf-8")
    assert "can't write" in sentence("compare", runs[0], runs[1], "--out", tmp_path / "out")
    assert (tmp_path / "out").read_text("utf-8") == "mine"


def test_wrong_groupings_end_in_one_sentence_and_leave_nothing(three, tmp_path):
    run = shutil.copytree(three, tmp_path / "run")
    assert "no grouping 'colour', expected correct or n_steps" in sentence("analyze", run, "--by", "colour")
    assert "have no steps" in sentence("analyze", run, "--by", "correct", "--by", "n_steps")
    single = few(tmp_path / "single", asked(2))
    assert "no group has two problems" in sentence("analyze", single, "--by", "correct")
    (run / "problems.jsonl").write_text(json.dumps(asked(9)[0]) + "\n", "utf-8")
    assert "is not what the run was made from" in sentence("analyze", run, "--by", "n_steps")
    (run / "problems.jsonl").unlink()
    assert "problems.jsonl does not exist" in sentence("analyze", run, "--by", "n_steps")
    assert not (run / "analysis").exists()
    assert not (single / "analysis").exists()
