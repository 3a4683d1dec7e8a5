"""The command line as a user meets it: what it writes, what it says, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.commands import call, sentence, undrawn
from tests.conftest import LOOKED_AT
from transformers import GPT2Config, GPT2LMHeadModel

import thoughtlens as tl
from thoughtlens.analysis import open_analysis
from thoughtlens.plots import head_map
from thoughtlens.runs import open_run


@pytest.fixture(scope="module")
def first(first_run):
    """The run of the documentation, and its headline numbers as its command said them."""
    return first_run, json.loads((first_run.parents[1] / "said.json").read_text("utf-8"))


@pytest.fixture
def unplotted(monkeypatch):
    """`thoughtlens run` without its figures, which take most of its time."""
    monkeypatch.setattr("thoughtlens.reports.run_files.write_figures", lambda *_, **__: [])


@pytest.fixture
def copied(first, tmp_path):
    """A run that a test may write into."""
    shutil.copytree(first[0], tmp_path / "copied")
    return tmp_path / "copied"


def test_run_leaves_everything_that_it_promises(first):
    folder, facts = first
    for name in ("manifest.json", "problems.jsonl", "results.jsonl", "attention.zarr", "analysis/summary.json"):
        assert (folder / name).exists(), name
    for figure in LOOKED_AT:
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 10_000
        assert (folder / "figures" / f"{figure}.svg").stat().st_size > 1_000
    assert facts["n"] == 24
    assert facts["accuracy"]["estimate"] >= 0.9
    assert facts["report"] == str(folder / "report.html")
    assert "thoughtlens report" in (folder / "report.html").read_text("utf-8")


def test_run_again_on_the_same_folder_gives_the_same(first, copied):
    with undrawn():
        again = json.loads(call("run", "--n", 24, "--out", copied, "--json").stdout)
    same = {name: fact for name, fact in first[1].items() if name != "report"}
    # The call is told as it was typed.
    assert again["made_by"].pop("call") == same["made_by"]["call"].replace(str(first[0]), str(copied)) + " --no-report"
    same["made_by"] = {name: fact for name, fact in same["made_by"].items() if name != "call"}
    assert json.loads(json.dumps(again).replace(str(copied), str(first[0]))) == same


def test_closing_tables_name_accuracy_hub_flow_skip_and_heads(copied):
    text = call("analyze", copied, "--full").stdout
    for word in ("accuracy", "hub", "sequential preference", "skip preference", "top heads", "L0H0"):
        assert word in text


def test_an_analysis_with_other_options_has_a_folder_of_its_own(copied):
    facts = json.loads(call("analyze", copied, "--by", "correct", "--name", "mine", "--json").stdout)
    assert [of["by"] for of in facts["groups"]] == ["correct"]
    mine = copied / "analysis" / "mine"
    assert {"run": str(copied), **json.loads((mine / "summary.json").read_text("utf-8"))} == facts
    assert (mine / "by_correct" / "groups.csv").is_file()
    assert {path.name for path in mine.glob("*.csv")} == {path.name for path in (copied / "analysis").glob("*.csv")}
    assert "groups" not in json.loads((copied / "analysis" / "summary.json").read_text("utf-8"))
    assert "pass another --name, or --force" in sentence("analyze", copied, "--name", "mine")
    assert "expected one of mine" in sentence("plot", copied, "--analysis", "yours")


def test_a_python_user_writes_what_the_command_line_writes(first, copied):
    from thoughtlens import open_run
    from thoughtlens.reports import write_reports

    folder, facts = first
    found = write_reports(open_run(copied), figures=False)
    asked = found.pop("made_by")["call"], facts["made_by"]["call"]
    assert asked[0].startswith("thoughtlens.analyze(") and asked[1].startswith("thoughtlens run ")
    facts = {name: of for name, of in facts.items() if name != "made_by"}
    kept = json.loads((folder / "analysis" / "summary.json").read_text("utf-8"))
    assert kept.pop("made_by")["call"] == asked[1]
    assert found == kept
    assert {"run": str(folder), **found, "figures": facts["figures"], "report": facts["report"]} == facts


def test_plot_and_export_can_be_made_again(copied):
    with undrawn():
        assert "hub_profile.png" in call("plot", copied).stdout
    assert "attention_patterns_raw.npy" in call("export", copied, "--format", "npy").stdout
    assert "self" in (copied / "export" / "README.txt").read_text("utf-8")


def test_sample_then_extract_equals_run(first, tmp_path):
    call("sample", "--problems", "arithmetic", "--n", 24, "--out", tmp_path / "some.jsonl")
    call("extract", "--problems", tmp_path / "some.jsonl", "--out", tmp_path / "run")
    one, other = ((folder / "results.jsonl").read_text("utf-8") for folder in (first[0], tmp_path / "run"))
    assert one == other


def test_models_and_problems_are_listed():
    assert "tiny-gpt2" in call("models").stdout
    assert "zen-E/CODI-gpt2" in json.loads(call("models", "--json").stdout)["published"]
    assert set(json.loads(call("problems", "--json").stdout)) >= {
        "arithmetic", "gsm8k", "svamp", "multiarith", "gsm_hard", "math500", "strategyqa", "commonsenseqa",
    }  # fmt: skip


def test_a_set_is_shown_with_its_licence_and_three_problems(tmp_path):
    found = json.loads(call("problems", "graphs_worded", "--json").stdout)
    assert (found["licence"], found["n"], found["kinds"]) == ("Apache-2.0", 500, {"text": 500})
    assert [problem["id"] for problem in found["problems"]] == ["test_0", "test_1", "test_2"]
    page = call("problems", "prosqa").stdout
    assert "valid 300" in page and "prosqa is not on the Hub" in page
    (tmp_path / "mine.jsonl").write_text('{"ask": "[bold]1+1?\\u001b[2J", "answer": 2}\n')
    page = call("problems", tmp_path / "mine.jsonl", "--field", "question=ask").stdout
    assert "[bold]1+1?" in page and "\x1b" not in page and "number 1" in page
    assert "no problem set is called 'graph'" in sentence("problems", "graph")


def test_card_is_shown_and_recomputed():
    assert "Before you claim anything" in call("models", "tiny-gpt2").stdout
    found = json.loads(call("models", "tiny-gpt2", "--recompute", 20, "--json").stdout)
    assert found["accuracy"]["own"]["n"] == 20


def test_doctor_passes_and_says_what_it_measured():
    checks = json.loads(call("doctor", "--model", "tiny-gpt2", "--json").stdout)["checks"]
    assert len(checks) >= 7
    assert all(check["passed"] and check["measured"] for check in checks)


def test_doctor_fails_with_exit_code_1_when_a_check_does(monkeypatch):
    from thoughtlens.evaluation import Check

    monkeypatch.setattr("thoughtlens.evaluation.doctor", lambda reasoner, precision: [Check("rows", False, "sum to 2")])
    assert "FAILED" in call("doctor", code=1).stdout


def base_model(folder: Path) -> Path:
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(folder)
    return folder


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_such_model(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = sentence("run", "--model", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert "nowhere" in said
    assert "thoughtlens models" in said
    assert not (tmp_path / "run").exists()


def test_base_model_given_as_checkpoint(tmp_path):
    said = sentence("run", "--model", base_model(tmp_path / "gpt2"), "--out", tmp_path / "run")
    assert "is this the base model?" in said


def test_pickle_that_would_run_code(tmp_path):
    base_model(tmp_path / "evil")
    (tmp_path / "evil" / "model.safetensors").unlink()
    torch.save({"codi.x": Runs(tmp_path / "canary")}, tmp_path / "evil" / "pytorch_model.bin")
    assert "run code" in sentence("doctor", "--model", tmp_path / "evil")
    assert not (tmp_path / "canary").exists()


def test_empty_set(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl" in sentence("run", "--problems", tmp_path / "empty.jsonl", "--out", tmp_path / "run")


def test_malformed_line(tmp_path):
    good = json.dumps({"question": "How many?", "answer": "3"})
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{{'question'\n")
    said = sentence("run", "--problems", tmp_path / "bad.jsonl", "--out", tmp_path / "run")
    assert "bad.jsonl" in said
    assert "line 2" in said


def test_foreign_output_folder(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("mine")
    said = sentence("run", "--n", 2, "--out", tmp_path / "thesis")
    assert "chapter1.tex" in said
    assert sorted(path.name for path in (tmp_path / "thesis").iterdir()) == ["chapter1.tex"]


def test_unwritable_output_folder():
    assert "/proc/here" in sentence("run", "--n", 2, "--out", "/proc/here")


@pytest.mark.parametrize(
    ("thoughts", "model"),
    [
        (1, "tiny-gpt2"),
        pytest.param(2, "tiny-gpt2", marks=pytest.mark.nightly),
        pytest.param(3, "tiny-gpt2", marks=pytest.mark.nightly),
        (32, "planted"),
    ],
)
def test_any_number_of_thoughts_runs_to_its_closing_table(thoughts, model, tmp_path, request):
    """With few thoughts some preferences have no meaning: they are undefined, not 0 and not a crash."""
    if thoughts == 32:  # as many are drawn in tests/plots
        request.getfixturevalue("unplotted")
    said = call("run", "--model", model, "--n", 20, "--thoughts", thoughts, "--out", tmp_path / "run", "--full").stdout
    assert ("undefined" in said) == (thoughts <= 3)
    call("export", tmp_path / "run")


@pytest.mark.parametrize("thoughts", [0, 33])
def test_impossible_number_of_thoughts(thoughts, tmp_path):
    said = sentence("run", "--n", 2, "--thoughts", thoughts, "--out", tmp_path / "run")
    assert "expected 1 to 32" in said
    assert not (tmp_path / "run").exists()


def test_more_problems_than_there_are(tmp_path):
    assert "2400" in sentence("run", "--n", 2401, "--out", tmp_path / "run").replace(",", "")


def test_hub_without_a_network_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The client has read its environment already.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "HF_HUB_OFFLINE is set" in sentence("doctor", "--model", "zen-E/CODI-gpt2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--dtype", "float8"], "no precision 'float8'"),
        (["run", "--device", "abacus"], "no device 'abacus'"),
        (["run", "--field", "question"], "expected for instance question=NAME"),
        (["run", "--batch-size", "0"], "expected at least 1"),
        (["run", "--batch-size", "many"], "--batch-size is 'many', expected auto or a number such as 32; pass another"),
        (["export", "nowhere"], "nowhere"),
        (["export", "nowhere", "--format", "csv"], "no format 'csv'; the only one is npy"),
        (["analyze", "nowhere"], "nowhere"),
        (["models", "gpt5"], "no bundled model 'gpt5'"),
        (["train", "nothing", "--out", "x"], "no recipe 'nothing'"),
        (["run", "--problems", "riddles"], "riddles"),
        (["run", "--revision", "v1"], "has no revisions"),
        (["run", "--alpha", "nan"], "expected a finite number"),
        (["run", "--alpha", "16"], "--alpha is 16, but tiny-gpt2 has no LoRA weights"),
        (["run", "--model", "tiny-gpt3"], "did you mean tiny-gpt2?"),
        (["run", "--n", "0"], "n is 0, expected 1 to 2,400"),
        (["run", "--thoughts", "33"], "--thoughts is 33, expected 1 to 32"),
        (["run", "--protocol", "none"], "no protocol 'none', expected one of exact, official-padding-v4-cuda"),
        (["intervene", "nowhere", "--heads", "all"], "nowhere"),
        (["compare", "nowhere", "there", "--out", "both"], "nowhere"),
        (["models", "tiny-gpt2", "--recompute", "1"], "take at least 2"),
    ],
)
def test_wrong_option_ends_in_one_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in sentence(*arguments)


def test_what_is_wrong_is_refused_before_torch_is_imported(tmp_path, monkeypatch):
    wrong = [
        ["run", "--model", "tiny-gpt3"],
        ["run", "--alpha", "16"],
        ["run", "--problems", "none.jsonl"],
        ["run", "--dtype", "float8"],
        ["run", "--n", "0"],
        ["doctor", "--device", "abacus"],
        ["analyze", "nowhere"],
        ["intervene", "nowhere", "--heads", "all"],
    ]
    code = (
        "import sys; from thoughtlens.cli import app\n"
        f"for words in {wrong!r}:\n"
        "    try: app(words)\n"
        "    except SystemExit as ended: assert ended.code == 2, words\n"
        "    assert not {'torch', 'xarray', 'pandas'} & set(sys.modules), words\n"
        "try: app(['models', 'tiny-gpt2'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "assert not {'torch', 'xarray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Error: ") == len(wrong)


def test_version_and_short_options_are_known_everywhere():
    assert call("--version").stdout.strip() == f"thoughtlens {tl.__version__}"
    assert call("status", "-h").stdout == call("status", "--help").stdout
    assert "-v" in call("sample", "-h").stdout


def test_options_of_a_file_are_those_of_the_command(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(f'problems = "arithmetic"\nn = 3\nout = "{tmp_path / "three.jsonl"}"\n')
    assert json.loads(call("sample", "--config", file, "--json").stdout)["n"] == 3
    assert json.loads(call("sample", "--config", file, "--n", 2, "--json").stdout)["n"] == 2
    for text, said in (
        ("m = 3", "sets 'm', expected options of sample: problems, out, n,"),
        ("n = [3]", "sets n to [3], expected one text or number"),
        ('field = "answer=a"', "expected a list"),
        ("json = 1", "sets json to 1, expected true or false"),
        ("n =", "is not readable as TOML"),
    ):
        file.write_text(text)
        assert said in sentence("sample", "--problems", "arithmetic", "--out", tmp_path / "x.jsonl", "--config", file)
    assert "can't be read" in sentence("sample", "--config", tmp_path / "none.toml")


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("thoughtlens.runs.extraction.extract_part", interrupted)
    monkeypatch.setattr(tl.runs, "extract_part", interrupted)
    result = call("run", "--n", 2, "--out", tmp_path / "run", code=130)
    assert "the same command goes on from there" in " ".join(result.stderr.split())


def test_the_closing_text_is_at_most_twelve_lines_and_names_what_to_do_next(copied):
    text = call("analyze", copied).stdout
    lines = text.splitlines()
    assert len(lines) <= 12
    for word in ("Answers", "Where thoughts look", "Hub", "Types of heads", "Files", "thoughtlens intervene"):
        assert word in text
    assert "24 of 24 problems answered rightly" in text


def test_tables_in_a_pipe_are_not_cut_off(copied):
    text = call("analyze", copied, "--full").stdout
    assert "…" not in text and max(map(len, text.splitlines())) > 80


def test_texts_that_are_cut_short_are_counted(tmp_path, unplotted):
    asked = ("--n", 6, "--max-new-tokens", 2, "--out", tmp_path / "run", "--no-report")
    text = call("run", *asked).stdout
    assert "6 texts were cut short after 2 tokens" in text


def test_planted_heads_are_found_as_they_were_planted(tmp_path, unplotted):
    text = call("run", "--model", "planted", "--n", 20, "--out", tmp_path / "run").stdout
    assert "20 of 20 problems answered rightly" in text
    assert "8 of 8 heads have the type that was planted" in text


def test_training_into_a_foreign_folder_leaves_it_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert "no training of this tool" in sentence("train", "tiny-gpt2", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_cache_that_can_not_be_written(monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", "/proc/nocache")
    assert "THOUGHTLENS_CACHE" in sentence("doctor")


def test_small_sets_run_whole_without_saying_how_many(tmp_path, unplotted):
    rows = [
        json.dumps({"question": f"Tom has {n} pens. How many pens does he have?", "answer": n}) for n in range(2, 5)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    asked = ("--problems", tmp_path / "mine.jsonl", "--out", tmp_path / "run")
    facts = json.loads(call("run", *asked, "--json").stdout)
    assert facts["n"] == 3


def test_text_from_data_is_shown_as_text(tmp_path):
    """A file's name can't be read as markup or move the cursor."""
    said = sentence("run", "--problems", tmp_path / "[red]\x1b[2J.jsonl", "--out", tmp_path / "run")
    assert "[red]" in said
    assert "\x1b" not in said


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from thoughtlens.cli import app; app(['--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'xarray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize(
    "command", ["run", "sample", "extract", "analyze", "plot", "export", "models", "problems", "doctor", "train"]
)
def test_every_command_has_help(command):
    assert len(call(command, "--help").stdout.splitlines()) > 5


def test_planted_heads_are_on_top_of_their_lists(tmp_path, unplotted):
    asked = ("--model", "planted", "--problems", "arithmetic", "--n", 20, "--out", tmp_path / "run")
    facts = json.loads(call("run", *asked, "--json").stdout)
    first = {name: heads[0]["name"] for name, heads in facts["strongest"].items()}
    assert first == {"hub": "L1H0", "sequential": "L0H2", "skip": "L1H2"}
    text = call("analyze", tmp_path / "run", "--full").stdout
    assert "L1H0 2.45" in text
    [warning] = facts["warnings"]
    assert warning.startswith("accuracy is 0.0% (n = 20)")
    assert text.startswith("Warning: accuracy is 0.0%")
    assert " ".join(text.split()).count("selected on these problems") == 3
    # One head has a hub, wherever heads with a hub are named or counted; the one that looks one thought back has none.
    analysis = open_analysis(open_run(tmp_path / "run"))
    heads = pd.read_csv(tmp_path / "run" / "analysis" / "heads.csv")
    evidence = pd.read_csv(tmp_path / "run" / "analysis" / "evidence_head.csv")
    assert facts["hub_heads"]["n_heads"] == facts["types"]["hub"] == facts["evidence"]["hub"]["n_heads"] == 1
    assert [head["name"] for head in facts["strongest"]["hub"]] == ["L1H0"]
    assert (
        heads.loc[heads["hub"].notna(), "name"].tolist()
        == heads.loc[heads["type"] == "hub", "name"].tolist()
        == ["L1H0"]
    )
    assert evidence.loc[evidence["thought"].notna(), ["layer", "head"]].values.tolist() == [[1, 0]]
    outlined = [len(marks.get_paths()) for marks in head_map(analysis, metric="hub strength").axes[0].collections]
    assert outlined == [1]
    assert heads.set_index("name").loc["L0H2", "type"] == "previous-thought"


def test_problems_that_choose_and_that_are_tested_are_told_apart(copied):
    facts = json.loads(call("analyze", copied, "--holdout", 0.5, "--holdout-seed", 3, "--json").stdout)
    n_choosing = facts["holdout"].pop("n_choosing")
    assert facts["holdout"] == {"share": 0.5, "seed": 3}
    assert facts["n"] + n_choosing == 24
    assert facts["warnings"][0].startswith(f"n = {facts['n']}: below 20 problems")
    text = " ".join(call("analyze", copied, "--holdout", 0.5, "--holdout-seed", 3, "--full").stdout.split())
    assert f"Warning: {facts['warnings'][0]}" in text
    assert f"n = {facts['n']} held out (0.5, seed 3)" in text
    assert "expected more than 0 and less than 1" in sentence("analyze", copied, "--holdout", 1)


def test_a_run_of_four_problems_shows_no_head(tmp_path):
    facts = json.loads(call("run", "--n", 4, "--out", tmp_path / "run", "--json").stdout)
    assert facts["warnings"] == ["n = 4: below 5 problems no interval, p-value, hub or head is shown; take more."]
    assert facts["top_heads"] == []
    assert not [path for path in facts["figures"] if "head" in Path(path).name]
    assert sentence("plot", tmp_path / "run", "--heads", "L9H9").startswith("Error: no head 'L9H9' in this run")
    text = call("analyze", tmp_path / "run").stdout
    assert text.startswith("Warning: n = 4")
    assert "L0H0" not in text


# tests/reports/test_comparisons.py analyzes runs of all three, too.
@pytest.mark.nightly
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2-control"])
def test_every_bundled_model_runs(model, tmp_path):
    call("sample", "--problems", "arithmetic", "--n", 10, "--out", tmp_path / "some.jsonl")
    call("extract", "--model", model, "--problems", tmp_path / "some.jsonl", "--out", tmp_path / "run")
    facts = json.loads(call("analyze", tmp_path / "run", "--json").stdout)
    assert facts["n"] == facts["n_answer_rows"] == 10


def test_real_questions_run_through_the_bundled_model(data_folder, tmp_path):
    """GSM8K's own questions: every one encoded, every row a true partition, whatever the answers are worth."""
    import numpy as np

    from thoughtlens import open_run

    call("sample", "--problems", data_folder / "gsm8k_test.jsonl", "--n", 8, "--out", tmp_path / "some.jsonl")
    call("extract", "--problems", tmp_path / "some.jsonl", "--out", tmp_path / "run")
    run = open_run(tmp_path / "run")
    sums = run.attention["attention"].astype(np.float32).sum("key", skipna=False)
    assert run.attention.sizes["problem"] == len(run.results()) == 8
    assert float(np.abs(sums.sel(query=sums["query"] != "answer") - 1).max()) < 2e-3


def test_training_without_its_libraries_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "thoughtlens.training", None)
    said = sentence("train", "tiny-gpt2", "--out", tmp_path / "out")
    assert "which is not installed; run `pip install 'thoughtlens[train]'`" in said
