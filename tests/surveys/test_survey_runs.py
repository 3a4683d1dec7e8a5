"""Surveys of two models on two sets: killed and resumed, the same as unbroken; status, forecast, what is refused."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.commands import call, sentence, unrendered

import thoughtlens.cuts
import thoughtlens.reports
from thoughtlens.analysis import open_analysis
from thoughtlens.errors import RunError
from thoughtlens.runs import open_run
from thoughtlens.surveys import compare_cells, estimate_survey, survey, survey_runs, survey_status

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "surveys" / "bundled.toml"
TABLES = ("runs", "cells", "cut_effects", "differences", "claims", "claims_on_all")
SMALLER = {
    ', "tiny-coconut", "tiny-gpt2-control"]': "]",
    '{ problems = "arithmetic", name = "two steps", n-steps = 2 }': '"arithmetic"',
    '{ problems = "arithmetic", name = "four steps", n-steps = 4 },': "",
    "seeds = [42, 43]": "seeds = [42]",
    "n = 60": "n = 5\nshard-size = 3",
    'thoughts = "all"': 'thoughts = "z2"',
    'heads = "top:3"': "batch-size = 3",
    "max-new-tokens = 32": "max-new-tokens = 12",
}
"""The example made small: two models, two sets, five problems, one cut."""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    words = EXAMPLE.read_text("utf-8")
    for old, new in SMALLER.items():
        assert old in words
        words = words.replace(old, new)
    path = tmp_path_factory.mktemp("file") / "survey.toml"
    path.write_text(words)
    return path


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch, unrendered("png", "svg", "pdf"):
        patch.setattr(survey_runs, "compare_cells", lambda *cells, n_draws: compare_cells(*cells, n_draws=100))
        # Figures of single runs and studies take most of a survey's time; those of the survey are drawn.
        patch.setattr("thoughtlens.reports.run_files.write_figures", lambda *_, **__: [])
        patch.setattr("thoughtlens.reports.study_files.study_figures", lambda *_, **__: {})
        yield


@pytest.fixture(scope="module")
def unbroken(file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "survey"
    call("survey", file, "--out", out, "--no-report")
    return out


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_killed_twice_and_resumed_it_is_the_same(file, unbroken, tmp_path, monkeypatch):
    out, cut, begun = tmp_path / "survey", thoughtlens.cuts.intervene, []
    # Of equal runs, which these are shown to be, analyses are equal; these and files of single runs take most time.
    same = {run["folder"]: unbroken / run["folder"] for run in survey_status(unbroken)}
    of_unbroken = {out / folder: open_analysis(open_run(path)) for folder, path in same.items()}

    def spare(patch):
        patch.setattr(survey_runs, "analyze", lambda run, **_: of_unbroken[run.path])
        for name in ("write_reports", "write_study", "study"):
            patch.setattr(thoughtlens.reports, name, lambda *_, **__: None)
        patch.setattr(survey_runs, "_figures", lambda *_: {})

    def killed_in_a_batch(*given, **how):
        begun.append(given[0].path)
        return cut(*given, **how | ({"progress": killed} if len(begun) == 2 else {}))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        spare(patch)
        patch.setattr(thoughtlens.cuts, "intervene", killed_in_a_batch)
        survey(file, out, report=False)
    assert [run["state"] for run in survey_status(out)] == ["done", "measured", "missing", "missing"]
    assert not (out / "survey_summary.json").exists()

    measure, measured = survey_runs._extract, []

    def killed_in_a_shard(*given, **how):
        measured.append(given[1].folder)
        patch.setattr("thoughtlens.runs.extraction.recorder_for", killed)
        return measure(*given, **how)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        spare(patch)
        patch.setattr(survey_runs, "_extract", killed_in_a_shard)
        survey(file, out, report=False)
    # What was complete is not measured again.
    assert measured == [survey_status(out)[2]["folder"]]
    assert [run["state"] for run in survey_status(out)] == ["done", "done", "begun", "missing"]
    said = call("status", out).stdout
    assert all(word in said for word in ("done", "begun", "missing", "5 of 5", "0 of 5"))

    spare(monkeypatch)
    facts = survey(file, out, report=False)
    assert [run["state"] for run in facts["runs"]] == ["done"] * 4
    for name in TABLES:
        assert (out / f"{name}.csv").read_bytes() == (unbroken / f"{name}.csv").read_bytes(), name
    for run in survey_status(out):
        one, other = (open_run(folder / run["folder"]) for folder in (out, unbroken))
        assert one.results() == other.results()
        assert np.array_equal(one.attention["attention"].values, other.attention["attention"].values, equal_nan=True)


def test_the_folder_maps_its_runs_and_says_what_it_found(unbroken):
    asked = json.loads((unbroken / "survey.json").read_text("utf-8"))
    assert len(asked["runs"]) == 4
    for run in asked["runs"]:
        manifest = open_run(unbroken / run["folder"]).manifest["options"]
        assert manifest["model"]["name"] == run["model"]
        assert manifest["problems"]["name"] == run["problems"]
        assert (unbroken / run["folder"] / "studies" / asked["study"] / "effects.csv").is_file()
    facts = json.loads((unbroken / "survey_summary.json").read_text("utf-8"))
    assert facts["made_by"]["call"].startswith("thoughtlens survey ")
    assert {of["about"] for of in facts["findings"]} >= {"Accuracy"}
    table = pd.read_csv(unbroken / "runs.csv")
    assert table["accuracy"].tolist() == [open_run(unbroken / folder).correct().mean() for folder in table["folder"]]
    figures = {"models_on_arithmetic", "models_on_planted", "sets_of_tiny-gpt2", "sets_of_tiny-llama"}
    assert {path.stem for path in unbroken.glob("*.png")} == figures


def test_numbers_of_a_cell_are_those_of_its_run(unbroken):
    cells = pd.read_csv(unbroken / "cells.csv")
    for row in pd.read_csv(unbroken / "runs.csv").to_dict("records"):
        run = open_run(unbroken / row["folder"])
        its = cells.query("model == @row['model'] and problems == @row['problems']").set_index(["measure", "position"])
        own = json.loads((run.path / "analysis" / "summary.json").read_text("utf-8"))
        for measure in ("accuracy", "sequential", "skip"):
            assert its.loc[measure, "estimate"].item() == pytest.approx(own[measure]["estimate"])
        effects = pd.read_csv(next(run.path.glob("studies/*/effects.csv"))).query("kind == 'cut'")
        cut = pd.read_csv(unbroken / "cut_effects.csv").query("model == @row['model'] and problems == @row['problems']")
        assert cut["cut"].tolist() == effects["intervention"].tolist()
        assert cut["estimate"].to_numpy() == pytest.approx(effects["joint_logprob"].to_numpy())


def test_every_column_and_file_is_described(unbroken):
    page = (ROOT / "docs" / "run-folder.md").read_text("utf-8")
    section = page[page.index("## A survey") :].partition("\n## ")[0]
    named = set(re.findall(r"`([\w.-]+)`", section))
    for name in TABLES:
        assert f"{name}.csv" in section
        assert set(pd.read_csv(unbroken / f"{name}.csv").columns) <= named, name
    for path in unbroken.glob("*.json"):
        assert path.name in section
        assert set(json.loads(path.read_text("utf-8"))) <= named, path


def test_another_survey_is_not_put_in_its_place(file, unbroken, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(file.read_text("utf-8").replace('"z2"', '"z3"'))
    before = (unbroken / "survey.json").read_bytes()
    said = sentence("survey", other, "--out", unbroken)
    assert "holds another survey" in said
    assert "intervene.thoughts is 'z2' there and 'z3' here" in said
    assert (unbroken / "survey.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds files and no survey\.json"):
        survey(file, tmp_path / "mine")


def test_an_altered_survey_is_refused(unbroken, file, tmp_path):
    for name in ("survey.json", "survey.json.sha256"):
        shutil.copy(unbroken / name, tmp_path / name)
    path = tmp_path / "survey.json"
    path.write_text(path.read_text("utf-8").replace("tiny-llama", "tiny-gpt2"))
    with pytest.raises(RunError, match="was altered"):
        survey_status(tmp_path)
    with pytest.raises(RunError, match="was altered"):
        survey(file, tmp_path)
    with pytest.raises(RunError, match=r"has no survey\.json"):
        survey_status(tmp_path / "none")


def test_problems_that_have_changed_are_refused(tmp_path):
    def stop(sentence):
        if sentence == "compare":
            raise KeyboardInterrupt

    path, problems = tmp_path / "survey.toml", tmp_path / "mine.jsonl"
    words = f'models = ["tiny-gpt2"]\nproblems = [{{problems = "{problems}", name = "mine"}}]'
    path.write_text(f"{words}\n[run]\nmax-new-tokens = 2")
    problems.write_text('{"question": "How many?", "answer": "1"}')
    with pytest.raises(KeyboardInterrupt):
        survey(path, tmp_path / "out", report=False, say=stop)
    problems.write_text('{"question": "How many?", "answer": "2"}')
    with pytest.raises(RunError, match="has other problems than mine has now; put the file back as it was, or name an"):
        survey(path, tmp_path / "out", report=False)


def test_an_engine_that_is_not_installed_is_told_of_first(tmp_path, monkeypatch):
    monkeypatch.delattr("thoughtlens.runs.Ray", raising=False)  # once asked for, it is kept
    monkeypatch.setitem(sys.modules, "thoughtlens.runs.ray_engine", None)
    path = tmp_path / "survey.toml"
    path.write_text('models = ["tiny-gpt2"]\nproblems = ["arithmetic"]\n[run]\nengine = "ray"')
    assert "asks for the engine ray, which is not installed; run `pip install" in sentence(
        "survey", path, "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_a_set_that_is_too_small_is_told_of_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(survey_runs, "_load", killed)
    path = tmp_path / "survey.toml"
    path.write_text('models = ["tiny-gpt2"]\nproblems = ["arithmetic"]\n[run]\nn = 5000')
    assert "2,400 problems, 5,000 were asked for" in sentence("survey", path, "--out", tmp_path / "out")
    path.write_text('models = ["tiny-gpt2"]\nproblems = [{ problems = "arithmetic", n-steps = 7 }]')
    said = "arithmetic has no problem of 7 steps, expected one of [2, 3, 4]; set another n-steps."
    assert said in sentence("survey", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_may_be_its_problems_of_so_many_steps(tmp_path):
    path = tmp_path / "survey.toml"
    path.write_text('models = ["tiny-gpt2"]\nproblems = [{ problems = "arithmetic", n-steps = 4, n = 9 }]')
    [[key, chosen]] = survey_runs._drawn(survey_runs.read_survey(path)).items()
    assert key == ("arithmetic", 42)
    assert [len(problem.steps) for problem in chosen.problems] == [4] * 9


def test_draws_are_pooled_by_the_ids_of_problems(unbroken):
    runs = [open_run(unbroken / run["folder"]) for run in survey_status(unbroken)[:2]]
    pool = survey_runs.pooled([runs[0], runs[0], runs[1]], unbroken)
    assert [problem.id for problem in pool.problems()] == [p.id for run in runs for p in run.problems()]
    assert pool.correct().tolist() == [bool(right) for run in runs for right in run.correct()]
    seen = [name for block in pool.blocks(chosen=np.arange(10) % 3 == 0) for name in block["problem"].values]
    assert seen == [problem.id for problem in pool.problems()][::3]
    name = json.loads((unbroken / "survey.json").read_text("utf-8"))["study"]
    effects = survey_runs._effects(pool, name)
    assert effects["problem"].values.tolist() == [problem.id for problem in pool.problems()]
    assert effects["intervention"].values.tolist() == ["z2 resample"]


def test_a_forecast_counts_what_is_left(file, unbroken, tmp_path):
    none = estimate_survey(file, unbroken)
    assert {name: none[name] for name in ("n_runs", "n_passes", "seconds", "bytes")} == dict.fromkeys(
        ("n_runs", "n_passes", "seconds", "bytes"), 0
    )
    small = tmp_path / "small.toml"
    small.write_text(
        'models = ["tiny-gpt2"]\nproblems = ["arithmetic"]\nseeds = [1, 2]\n[run]\nn = 4\n[intervene]\nthoughts = "all"'
    )
    said = json.loads(call("survey", small, "--out", tmp_path / "out", "--dry-run", "--json").stdout)
    # A pass of each problem when it is measured, one of the baseline and one of each of six cuts.
    assert (said["n_runs"], said["n_passes"]) == (2, 8 + 8 * 7)
    assert said["bytes"] == 2 * 8 * 16 * 9 * 11
    assert said["seconds"] > 0
    assert not (tmp_path / "out").exists()
