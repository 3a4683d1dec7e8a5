"""The files of the 2025 scripts: names, shapes, dtypes, keys, columns, and that each is whole or not there."""

import errno
import json
import re
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from tests.commands import unrendered
from typer.testing import CliRunner

from thoughtlens.cli import app
from thoughtlens.errors import RunError
from thoughtlens.models import load
from thoughtlens.problems import ProblemSet, load_set, sample
from thoughtlens.published import STEP_INDEXED_NOTE, export_npy, export_runs
from thoughtlens.runs import Run, extract

N = 10

COLUMNS = {
    "heads_ranked_by_flow": ["layer", "head", "flow_score", "layer_type"],
    "heads_ranked_by_hub": ["layer", "head", "hub_score", "hub_position", "layer_type"],
    "heads_ranked_by_skip": ["layer", "head", "skip_score", "layer_type"],
    "ranked_heads": [
        "layer", "head", "layer_type", "flow_score", "hub_score", "skip_score", "composite_score", "functional_type",
        "max_attention",
    ],
}  # fmt: skip

KEYS = {
    "attention_metadata": [
        "model_name", "model_path", "n_problems", "n_layers", "n_heads", "continuous_thought_positions",
        "dataset_path", "problems",
    ],
    "attention_stats": [
        "model", "n_problems", "n_layers", "n_heads", "consistency", "top_20_heads", "position_stats", "overall_stats",
    ],
    "attention_summary": ["model", "hub_analysis", "sequential_flow", "skip_connections", "answers"],
}  # fmt: skip

INNER_KEYS = {
    ("attention_stats", "consistency"): ["mean_std", "max_std", "min_std", "consistent"],
    ("attention_stats", "overall_stats"): ["mean_attention", "max_attention", "min_attention"],
    ("attention_summary", "hub_analysis"): [
        "hub_position", "hub_score", "uniform_baseline", "hub_ratio", "is_strong_hub", "all_hub_scores",
    ],
    ("attention_summary", "sequential_flow"): [
        "has_sequential_flow", "avg_sequential_attention", "sequential_scores", "position_5_to_4",
    ],
    ("attention_summary", "skip_connections"): ["has_skip_connections", "avg_skip_attention", "skip_scores"],
    ("attention_summary", "answers"): [
        "which_position_is_hub", "is_there_sequential_flow", "does_pos5_attend_to_pos4", "are_there_skip_connections",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    problems = sample("arithmetic", n=N, seed=1)
    of_test = ProblemSet(tuple(problems), "arithmetic", "test", "bundled")
    return extract(load("tiny-gpt2"), of_test, tmp_path_factory.mktemp("exports") / "run", dtype="float32")


@pytest.fixture
def uncompared(monkeypatch) -> None:
    """The figure of several runs is empty, where a test does not look at it."""
    monkeypatch.setattr("thoughtlens.published.step_indexed_files.compared_models", lambda models: Figure())


@pytest.fixture(scope="module")
def folder(run) -> Path:
    return export_npy(run)[0].parent


def read(path: Path):
    return json.loads(path.read_text("utf-8"))


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def test_all_files_and_no_others(run, folder):
    expected = {
        "attention_patterns_raw.npy", "attention_patterns_avg.npy", "README.txt", "critical_heads_findings.txt",
        f"attention_dataset_{N}_test.json", *(f"{name}.json" for name in KEYS), *(f"{name}.csv" for name in COLUMNS),
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == expected
    assert folder == run.path / "export"


def test_arrays_are_the_step_indexed_maps(run, folder):
    """Row s is query z{s} and column j key z{j+1}, written out by hand from the run's own labels."""
    raw, average = (np.load(folder / f"attention_patterns_{name}.npy") for name in ("raw", "avg"))
    attention = run.attention["attention"]
    assert raw.dtype == average.dtype == np.float16
    assert raw.shape == (N, 4, 4, 6, 6)
    assert average.shape == (4, 4, 6, 6)
    expected = np.zeros(raw.shape, dtype=np.float32)
    for step in range(1, 6):
        for column in range(step):
            expected[..., step, column] = attention.sel(query=f"z{step}", key=f"z{column + 1}").values
    np.testing.assert_array_equal(raw, expected.astype(np.float16))
    np.testing.assert_allclose(average, expected.mean(0), rtol=5e-4, atol=1e-7)  # half a unit of float16 is 4.9e-4


def test_numbers_do_not_depend_on_the_size_of_blocks(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "blocks", partialmethod(Run.blocks, 3))
    for path in export_npy(run, tmp_path):
        if path.suffix == ".npy":
            np.testing.assert_array_equal(np.load(path), np.load(folder / path.name))


def test_json_has_the_keys_of_the_scripts_and_two_more(folder):
    for name, keys in KEYS.items():
        assert list(read(folder / f"{name}.json")) == [*keys, "convention", "made_by"]
    for (name, section), keys in INNER_KEYS.items():
        assert list(read(folder / f"{name}.json")[section]) == keys
    stats = read(folder / "attention_stats.json")
    assert list(stats["top_20_heads"][0]) == ["layer", "head", "max_attention", "mean_attention", "std_attention"]
    assert list(stats["position_stats"][0]) == ["position", "avg_incoming_attention", "avg_outgoing_attention"]


def test_metadata_is_that_of_the_run(run, folder):
    found = read(folder / "attention_metadata.json")
    assert (found["model_name"], found["model_path"]) == ("tiny-gpt2", "tiny-gpt2")
    assert (found["n_problems"], found["n_layers"], found["n_heads"]) == (N, 4, 4)
    assert found["continuous_thought_positions"] == [0, 1, 2, 3, 4, 5]
    assert (folder / found["dataset_path"]).is_file()
    assert found["problems"] == [
        {"index": index, "gsm8k_id": row["id"], "question_length": len(row["question"]), "success": True}
        for index, row in enumerate(run.results())
    ]


def test_stats_are_those_of_the_arrays(folder):
    raw = np.load(folder / "attention_patterns_raw.npy").astype(np.float64)
    stats = read(folder / "attention_stats.json")
    assert stats["consistency"]["mean_std"] == pytest.approx(raw.std(0).mean(), rel=1e-3)
    assert stats["overall_stats"]["max_attention"] == pytest.approx(raw.mean(0).max(), rel=1e-3)
    columns = raw.mean(0).sum(-2).mean((0, 1))
    np.testing.assert_allclose(
        read(folder / "attention_summary.json")["hub_analysis"]["all_hub_scores"], columns, rtol=1e-3
    )


def test_tables_have_the_columns_of_the_scripts_and_are_sorted(folder):
    average = np.load(folder / "attention_patterns_avg.npy").astype(np.float64)
    for name, columns in COLUMNS.items():
        found = table(folder / f"{name}.csv")
        assert list(found.columns) == columns
        assert len(found) == 16
        by = "composite_score" if name == "ranked_heads" else columns[2]
        assert (np.diff(found[by]) <= 0).all()
    hubs = table(folder / "heads_ranked_by_hub.csv").set_index(["layer", "head"])["hub_score"]
    for place, value in hubs.items():
        assert value == pytest.approx(average[place].sum(0).var(), rel=2e-3)
    assert (table(folder / "heads_ranked_by_flow.csv")["flow_score"] == 1).all()
    assert table(folder / "ranked_heads.csv")["composite_score"].max() <= 0.6 + 1e-6


def test_every_file_says_that_it_is_step_indexed(folder):
    assert "attention to itself" in STEP_INDEXED_NOTE
    for path in folder.iterdir():
        if path.suffix == ".csv":
            readme = (folder / "README.txt").read_text("utf-8")
            assert path.name in readme
            assert all(re.search(rf"^.*\b{name}\b.*  ", readme, re.MULTILINE) for name in pd.read_csv(path).columns)
        elif path.suffix == ".txt":
            assert path.read_text("utf-8").splitlines()[0] == STEP_INDEXED_NOTE
        elif path.suffix == ".json" and not path.name.startswith("attention_dataset"):
            assert read(path)["convention"] == STEP_INDEXED_NOTE
    assert "attention_patterns_raw.npy" in (folder / "README.txt").read_text("utf-8")


def test_dataset_is_a_plain_list_that_reads_back(run, folder):
    path = folder / f"attention_dataset_{N}_test.json"
    records, problems = read(path), sample("arithmetic", n=N, seed=1)
    assert [list(record) for record in records] == [["gsm8k_id", "question", "answer", "full_solution"]] * N
    assert records[0]["full_solution"] == "\n".join([*problems[0].steps, f"#### {problems[0].answer}"])
    again = load_set(path, fields={"id": "gsm8k_id"}).problems
    assert [(p.id, p.question, p.answer) for p in again] == [(p.id, p.question, p.answer) for p in problems]


def test_several_runs_go_side_by_side(run, tmp_path):
    with unrendered("png", "pdf"):
        paths = export_runs([run, run, run], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "tiny-gpt2", "tiny-gpt2_2", "tiny-gpt2_3", "model_comparison.json", "model_comparison.png",
        "model_comparison.svg",
        "model_comparison.pdf",
    }  # fmt: skip
    assert all(path.is_file() for path in paths)
    found = read(paths[-4])
    assert "Step-indexed: models side by side" in paths[-2].read_text("utf-8")
    assert list(found) == [
        "models", "hub_analysis", "top_heads", "functional_type_distribution_top20", "layer_distribution_top20",
        "key_findings", "convention", "made_by",
    ]  # fmt: skip
    assert found["models"]["tiny-gpt2_2"] == {"model_size": "gpt2", "n_layers": 4, "n_heads": 4, "total_heads": 16}
    best = table(tmp_path / "out" / "tiny-gpt2" / "ranked_heads.csv").iloc[0]
    assert (found["top_heads"]["tiny-gpt2"]["layer"], found["top_heads"]["tiny-gpt2"]["head"]) == (
        best["layer"],
        best["head"],
    )
    assert read(tmp_path / "out" / "tiny-gpt2_3" / "attention_summary.json")["model"] == "tiny-gpt2_3"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("zen-E/CODI-gpt2", "CODI-gpt2"), ("../..", "unnamed"), ("models/a b:c/", "a_b_c"), (None, "run")],
)
@pytest.mark.usefixtures("uncompared")
def test_names_of_models_stay_in_their_folder(run, tmp_path, name, expected):
    options = run.manifest["options"]
    named = replace(run, manifest=run.manifest | {"options": options | {"model": options["model"] | {"name": name}}})
    with unrendered("png", "svg", "pdf"):
        export_runs([named], tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        expected, "model_comparison.json", "model_comparison.png", "model_comparison.svg", "model_comparison.pdf",
    }  # fmt: skip


def test_array_that_breaks_off_leaves_nothing(run, tmp_path, monkeypatch):
    whole = Run.blocks

    def until_the_disk_is_full(self):
        yield next(iter(whole(self, 2)))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "blocks", until_the_disk_is_full)
    with pytest.raises(RunError, match="No space left on device"):
        export_npy(run, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_table_that_breaks_off_leaves_nothing_of_itself(run, tmp_path, monkeypatch):
    def half(self, file, **options):
        file.write("layer,head,flow")
        file.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(KeyboardInterrupt):
        export_npy(run, tmp_path / "out")
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert "attention_stats.json" in left
    assert not [name for name in left if "csv" in name or name.startswith(".")]


def test_a_run_whose_problems_were_changed_is_not_exported(run, tmp_path):
    path = run.path / "problems.jsonl"
    before = path.read_text("utf-8")
    path.write_text("".join(before.splitlines(keepends=True)[1:]), "utf-8")
    try:
        with pytest.raises(RunError, match="has other problems than"):
            export_npy(run, tmp_path / "out")
    finally:
        path.write_text(before, "utf-8")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("uncompared")
def test_command_wants_a_folder_for_several_runs(run, tmp_path):
    runner = CliRunner()
    refused = runner.invoke(app, ["export", str(run.path), str(run.path)])
    assert refused.exit_code == 2
    assert "name one with --out" in refused.stderr
    with unrendered("png", "svg", "pdf"):
        done = runner.invoke(app, ["export", str(run.path), str(run.path), "--out", str(tmp_path / "two"), "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert str(tmp_path / "two" / "model_comparison.json") in facts["files"]
    assert "itself" in facts["note"]
