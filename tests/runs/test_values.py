"""Value-weighted patterns in a run folder: there when asked for, and kept as attention is."""

import json
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from tests.attention_made import unsaved
from tests.commands import unrendered
from tests.conftest import QUESTIONS, random_reasoner
from typer.testing import CliRunner

from thoughtlens.analysis import analysis_tables, analyze, open_analysis, value_shares
from thoughtlens.cli import app
from thoughtlens.errors import OptionError, RunError
from thoughtlens.models import PLANTED, norm_factors
from thoughtlens.problems import Problem
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.reports import summary, write_analysis
from thoughtlens.runs import extract, open_run
from thoughtlens.schema import check_attention
from thoughtlens.taps import ValueRecorder

PROBLEMS = [Problem(f"p{row}", question, "8") for row, question in enumerate(QUESTIONS * 2)]
FAMILIES = ("gpt2", "llama")


@pytest.fixture(scope="module")
def reasoners(tokenizer):
    return {family: random_reasoner(family, tokenizer) for family in FAMILIES}


@pytest.fixture
def reasoner(reasoners):
    return reasoners["gpt2"]


def values_of(reasoner, questions):
    rows = recorder_for(reasoner, len(questions), 6)
    reason(reasoner, questions, taps=[ValueRecorder(rows, norm_factors(reasoner.lm))], max_new_tokens=4)
    return rows.attention.numpy()


def extract_values(reasoner, to, **options):
    how = {"record": ["values"], "shard_size": 3, "batch_size": 2, "max_new_tokens": 4}
    return extract(reasoner, PROBLEMS, to, **how | options)


@pytest.fixture(scope="module")
def recorded(reasoners, tmp_path_factory):
    """A run of each family with its values."""
    root = tmp_path_factory.mktemp("recorded")
    return {family: extract_values(reasoner, root / family) for family, reasoner in reasoners.items()}


@pytest.fixture(scope="module")
def plain(reasoners, tmp_path_factory):
    """A run of each family without them."""
    root = tmp_path_factory.mktemp("plain")
    return {family: extract_values(reasoner, root / family, record=[]) for family, reasoner in reasoners.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_stored_beside_attention_which_stays_the_same(family, reasoners, recorded, plain):
    both = recorded[family].attention.load()
    xr.testing.assert_identical(both.drop_vars("value_weighted"), plain[family].attention.load())
    assert both["value_weighted"].dtype == np.float32
    check_attention(both)
    expected = values_of(reasoners[family], [problem.question for problem in PROBLEMS])
    # float16 has eleven significant bits, and nothing below 2^-24.
    np.testing.assert_allclose(both["value_weighted"], expected, rtol=2**-10, atol=2**-24)


def test_blocks_hold_one_pattern_at_a_time(reasoner, tmp_path):
    run = extract_values(reasoner, tmp_path / "run", dtype="float32")
    attention, values = (next(run.blocks(3, pattern=name)) for name in ("attention", "value_weighted"))
    assert "value_weighted" not in attention and "attention" not in values
    xr.testing.assert_equal(values["value_weighted"], run.attention["value_weighted"][:3].load())


def test_an_interrupted_run_goes_on_and_comes_out_the_same(reasoner, recorded, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(n_problems, done=[]):  # noqa: B006 (counts over calls)
        done.append(n_problems)
        if len(done) > 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract_values(reasoner, tmp_path / "broken", progress=interrupt)
    resumed = extract_values(reasoner, tmp_path / "broken")
    xr.testing.assert_identical(resumed.attention.load(), recorded["gpt2"].attention.load())


@pytest.mark.parametrize(("first", "then"), [("plain", ["values"]), ("recorded", [])])
def test_another_choice_is_refused_by_name(first, then, reasoner, request):
    path = request.getfixturevalue(first)["gpt2"].path
    there, here = ("none", "values") if then else ("values", "none")
    said = f"is another run: there: --record {there}; here: --record {here}; ask for the same, or name another"
    with pytest.raises(RunError, match=said):
        extract_values(reasoner, path, record=then)


def test_a_choice_made_twice_is_one(reasoner, recorded):
    run = recorded["gpt2"]
    assert extract_values(reasoner, run.path, record=("values", "values")).manifest == run.manifest


def test_runs_without_values_have_the_manifest_that_they_always_had(plain):
    assert "record" not in plain["gpt2"].manifest["layout"]


def test_a_damaged_array_is_named_and_only_its_shard_redone(reasoner, recorded, tmp_path):
    before = recorded["gpt2"].attention.load()
    shutil.copytree(recorded["gpt2"].path, tmp_path / "run")
    (tmp_path / "run/attention.zarr/value_weighted/c/1/0/0/0/0").unlink()
    with pytest.raises(RunError, match="value_weighted/c/1/0/0/0/0 is missing or altered; run the same extraction"):
        open_run(tmp_path / "run")
    done = []
    again = extract_values(reasoner, tmp_path / "run", progress=done.append)
    assert done == [5, 2, 1]  # what was there, then one shard of three in batches of two
    xr.testing.assert_identical(again.attention.load(), before)


def test_a_run_without_values_says_how_to_record_them(plain):
    with pytest.raises(RunError, match="holds no value_weighted; extract it anew with --record"):
        analyze(plain["gpt2"], pattern="value-weighted")


def test_what_can_not_be_recorded_is_refused(reasoner, tmp_path):
    with pytest.raises(OptionError, match="can't record 'keys', expected one of values"):
        extract_values(reasoner, tmp_path / "run", record=["keys"])
    assert not (tmp_path / "run").exists()


def test_norms_beyond_half_precision_are_refused(tokenizer, tmp_path):
    strong = random_reasoner("gpt2", tokenizer)
    with torch.no_grad():
        strong.lm.transformer.h[2].attn.c_proj.weight.mul_(1e8)
    with pytest.raises(RunError, match=r"beyond float16; extract with dtype='float32'"):
        extract_values(strong, tmp_path / "half")
    extract_values(strong, tmp_path / "single", dtype="float32")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda values: -values, "negative or not finite"),
        (lambda values: values.where(values["query"] != "z2"), "row z2 of value_weighted is NaN"),
        (lambda values: values.where(values["key"] != "first"), "negative or not finite"),
        (lambda values: values + 1, "value_weighted puts mass on positions after the query"),
        (lambda values: values.transpose("problem", "head", "layer", "query", "key"), "value_weighted has dims"),
    ],
    ids=["negative", "missing row", "partly missing", "not causal", "dims"],
)
def test_the_schema_is_checked(spoil, said, recorded):
    dataset = recorded["gpt2"].attention.load()
    with pytest.raises(RunError, match=said):
        check_attention(dataset.assign(value_weighted=spoil(dataset["value_weighted"])))


def test_analysis_of_shares_is_written_beside_that_of_attention(recorded):
    run = recorded["gpt2"]
    with unsaved():
        analysis = analyze(run, pattern="value-weighted", name="moved", n_resamples=20)
    paths = write_analysis(run, analysis, summary(run, analysis))
    assert {path.parent for path in paths} == {run.path / "analysis/moved"}
    assert json.loads(paths[0].read_text("utf-8"))["pattern"] == "value-weighted"
    whole = value_shares(run.attention.load())
    expected = analysis_tables(analyze(whole, correct=whole["correct"], n_resamples=20))["preferences_head"]
    found = np.genfromtxt(run.path / "analysis/moved/preferences_head.csv", delimiter=",", names=True)
    np.testing.assert_allclose(found["estimate"], expected["estimate"].to_numpy(), rtol=1e-6)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run of the planted model with its values, and what its analysis by the command line says."""
    folder = tmp_path_factory.mktemp("moved")
    some, run = folder / "some.jsonl", folder / "run"
    assert call("sample", "--problems", "arithmetic", "--n", 4, "--out", some).exit_code == 0
    extracted = call("extract", "--model", "planted", "--problems", some, "--record", "values", "--out", run)
    assert extracted.exit_code == 0
    with unrendered("png", "svg", "pdf"):
        return run, call("analyze", run, "--pattern", "value-weighted", "--name", "moved", "--json").stdout


def test_from_the_command_line(moved):
    run, said = moved
    assert json.loads(said)["pattern"] == "value-weighted"
    assert (run / "analysis/moved/heads.csv").is_file()
    refused = call("analyze", run, "--pattern", "keys")
    assert refused.exit_code == 2
    assert "no pattern 'keys'" in refused.stderr


def test_heads_that_move_nothing_leave_the_others_measured(moved):
    """The planted model's head of no use writes zeros: its shares are undefined, the carrier's are not."""
    analysis = open_analysis(open_run(moved[0]), "moved")
    defined = analysis.heads["thought_mass"].sel(value="estimate").notnull()
    carrier, nothing = (PLANTED[role] for role in ("carrier", "nothing"))
    assert defined.values[carrier] and not defined.values[nothing]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda dataset: dataset.transpose("problem", "head", ...), r"attention has dims \('problem', 'head', 'layer'"),
        (lambda dataset: dataset.isel(query=slice(None, None, -1)), r"the query axis is \['answer', 'eot', .*, exp"),
        (
            lambda dataset: dataset.assign_coords(key=range(dataset.sizes["key"])),
            r"the key axis is \['0', .*, expected",
        ),
        (lambda dataset: dataset.roll(key=1), "attention puts mass on positions after the query; extract the run"),
    ],
    ids=["dims", "query", "key", "not causal"],
)
def test_the_axes_of_attention_are_checked(spoil, said, make_attention):
    with pytest.raises(RunError, match=said):
        check_attention(spoil(make_attention()))
