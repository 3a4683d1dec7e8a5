"""Attention to the tokens of the question, against transformers' own eager pass and the run that pools them."""

import json
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests import oracle
from tests.commands import unrendered
from tests.conftest import QUESTIONS, Scripted, random_reasoner, usually
from tests.reasoning.test_reasoning import value_index
from transformers import AutoTokenizer
from typer.testing import CliRunner

from thoughtlens.cli import app
from thoughtlens.errors import OptionError
from thoughtlens.evaluation import decode_thoughts, question_attention, write_readings
from thoughtlens.evaluation.thought_readings import choose_problems
from thoughtlens.files import LOCK
from thoughtlens.models import bundled, load
from thoughtlens.notation import FIRST, QUESTION, query_names
from thoughtlens.plots import question_tokens
from thoughtlens.problems import Problem, sample
from thoughtlens.reports import write_question_attention
from thoughtlens.reports.run_files import top_tokens
from thoughtlens.runs import extract
from thoughtlens.runs.reader import read_readings

SAID = ["The answer is: 8", "The answer is:  17.", "<<12+3=15>> The answer is: 6", "I do not know"]
PROBLEMS = [Problem(f"p{row}", question, "8") for row, question in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def readings():
    """What the scripted texts of an untrained reasoner attend to, by its family, read once."""
    tokenizer = AutoTokenizer.from_pretrained(bundled()["tiny-gpt2"])

    @cache
    def read(family):
        return question_attention(Scripted(random_reasoner(family, tokenizer), SAID), PROBLEMS)

    return read


@pytest.fixture(params=usually("llama"))
def found(request, readings):
    return readings(request.param)


@pytest.mark.parametrize("n_thoughts", [1, 6])
@pytest.mark.parametrize("reasoner", ["gpt2", "llama"], indirect=True)
def test_tokens_get_what_one_eager_pass_gives_them(n_thoughts, reasoner):
    """Column by column, the mean over layers and heads of transformers' own attention."""
    markers, tokenizer = reasoner.markers, reasoner.tokenizer
    lm = oracle.eager(reasoner.lm)
    found = question_attention(Scripted(reasoner, SAID), PROBLEMS, n_thoughts=n_thoughts)
    for of_problem, question, text in zip(found, QUESTIONS, SAID, strict=True):
        ids = tokenizer(question)["input_ids"]
        sequence, _ = oracle.think(lm, reasoner.projection, ids, markers.bot, markers.eot, n_thoughts)
        value_at, said = value_index(reasoner, text) if ":" in text else (1, tokenizer(text)["input_ids"])
        said = lm.get_input_embeddings()(torch.tensor([said[:value_at]]))
        with torch.no_grad():
            full = torch.cat([sequence, said], dim=1)
            out = lm.base_model(inputs_embeds=full, use_cache=False, output_attentions=True)
        expected = torch.stack(out.attentions).mean((0, 1, 2))[len(ids) :, : len(ids)]
        rows = [*range(n_thoughts + 2), -1]  # bot, thoughts, eot, and the end of the prefix
        if ":" not in text:
            assert of_problem["attention"].sel(query="answer").isnull().all()
            rows = rows[:-1]
        np.testing.assert_allclose(of_problem["attention"].values[: len(rows)], expected[rows], rtol=0, atol=1e-6)
        assert of_problem["query"].values.tolist() == query_names(n_thoughts)


def test_rows_sum_to_the_mass_that_the_run_has_on_first_and_question(tmp_path):
    reasoner, problems = load("tiny-llama"), sample("arithmetic", n=6)
    run = extract(reasoner, problems, tmp_path / "run", dtype="float32")
    pooled = run.attention["attention"].sel(key=[FIRST, QUESTION]).sum("key", skipna=False).mean(("layer", "head"))
    for of_problem, row in zip(question_attention(reasoner, problems, batch_size=4), pooled, strict=True):
        np.testing.assert_allclose(of_problem["attention"].sum("token"), row, rtol=0, atol=1e-5)


def test_texts_are_those_of_the_tokens_in_their_order(found):
    for of_problem, problem in zip(found, PROBLEMS, strict=True):
        assert "".join(of_problem["text"].values) == problem.question
        assert (of_problem.attrs["problem"], of_problem.attrs["question"]) == (problem.id, problem.question)


def test_top_tokens_are_the_largest_in_order(found):
    found = found[3]
    tops = top_tokens(found, n=3)
    assert tops.pop("answer") == []
    for query, top in tops.items():
        row = found["attention"].sel(query=query).values
        assert [named["attention"] for named in top] == sorted(row.tolist(), reverse=True)[:3]
        for named in top:
            assert row[named["token"]] == np.float32(named["attention"])
            assert named["text"] == found["text"].values[named["token"]]


def test_the_planted_carrier_finds_the_largest_number():
    """At bot it looks at the largest number alone, and every other head splits evenly: that number is on top."""
    from thoughtlens.models import planted_problems, planted_reasoner

    problems = planted_problems(8, seed=2)
    for of_problem, problem in zip(question_attention(planted_reasoner(), problems), problems, strict=True):
        top = top_tokens(of_problem, n=1)["bot"][0]
        assert top["text"].strip() == problem.answer


def test_missing_rows_are_null_in_json(found, tmp_path):
    run = SimpleNamespace(path=tmp_path, manifest={"options": {"model": {"name": "m"}, "problems": {"name": "p"}}})
    with unrendered("png", "svg", "pdf"):
        told = write_question_attention(run, found, n_top=2)
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again["problems"][3]["attention"]["answer"] is None
    assert len(again["problems"][0]["top"]["z1"]) == 2
    assert len(again["problems"][0]["attention"]["z1"]) == len(again["problems"][0]["tokens"])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of a question that would be read as markup."""
    folder = tmp_path_factory.mktemp("tokens")
    problems = [Problem("a", "[red]Tom has 2 pens. How many?", "2"), Problem("b", "Ann has 3 cups. How many?", "3")]
    return extract(load("tiny-gpt2"), problems, folder / "run").path


def call(*arguments, code=0, drawn=()):
    with unrendered(*{"png", "svg", "pdf"} - set(drawn)):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_command_writes_what_it_shows(run_folder):
    told = json.loads(call("tokens", run_folder, "--n", 1, "--json").stdout)
    written = json.loads((run_folder / "analysis/question_attention.json").read_text("utf-8"))
    assert [of_problem["id"] for of_problem in written["problems"]] == ["a"]
    assert written["problems"] == told["problems"]
    assert written["model"]["name"] == "tiny-gpt2"


def test_command_draws_each_problem_into_a_file_of_its_name(tmp_path):
    """Names are those of problems as far as a file may be called so, and never leave the folder."""
    problems = [Problem(name, "Tom has 2 pens. How many?", "2") for name in ("../a", "/a", "x" * 300)]
    run = extract(load("tiny-gpt2"), problems, tmp_path / "run")
    told = json.loads(call("tokens", run.path, "--json", drawn=["svg"]).stdout)
    stems = ["question_tokens__a", "question_tokens__a_2", f"question_tokens_{'x' * 48}"]
    expected = [str(run.path / "figures" / f"{stem}.{end}") for stem in stems for end in ("png", "svg", "pdf")]
    assert told["figures"] == expected
    lock = str(run.path / "figures" / LOCK)
    assert sorted(map(str, (run.path / "figures").iterdir())) == sorted([*expected, lock])
    svg = (run.path / "figures" / f"{stems[0]}.svg").read_text("utf-8")
    assert "Where each position looks in the question ../a" in svg
    assert "tiny-gpt2 on given; n = 1" in svg


def test_outlined_tokens_are_the_top_ones(found):
    for of_problem in found:
        with unrendered("png", "svg", "pdf"):
            ax = question_tokens(of_problem, n_top=2).axes[0]
        centres = [path.vertices[:4].mean(0).round().astype(int) for path in ax.collections[0].get_paths()]
        for row, top in enumerate(top_tokens(of_problem, n=2).values()):
            outlined = [int(column) for column, at in centres if at == row]
            assert outlined == sorted(named["token"] for named in top)


def test_command_shows_problems_by_name_and_text_as_text(run_folder):
    shown = call("tokens", run_folder, "--problem", "b", "--problem", "a").stdout
    assert shown.index("b: Ann") < shown.index("a: [red]Tom")
    for word in ("z1", "z6", "top 1", "question_attention.json"):
        assert word in shown
    written = json.loads((run_folder / "analysis/question_attention.json").read_text("utf-8"))
    assert [of_problem["id"] for of_problem in written["problems"]] == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--problem", "c"], "no problem 'c' in"),
        (["--n", "0"], "--n is 0, expected at least 1"),
        (["--model", "tiny-llama"], "tiny-llama is not the model of the run"),
    ],
)
def test_wrong_option_ends_in_one_sentence(options, said, run_folder):
    refused = call("tokens", run_folder, *options, code=2)
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_problems_are_chosen_in_the_order_asked(tokenizer, tmp_path):
    run = extract(random_reasoner("gpt2", tokenizer), PROBLEMS, tmp_path / "run")
    assert [problem.id for problem in choose_problems(run, ["p2", "p0"])] == ["p2", "p0"]
    assert choose_problems(run, n=2) == PROBLEMS[:2]
    assert choose_problems(run, n=99) == PROBLEMS
    with pytest.raises(OptionError, match=r"no problem 'p9' in .*, expected one such as 'p0'"):
        choose_problems(run, ["p9"])


def test_readings_hold_what_the_lens_and_the_attention_to_words_give(tmp_path):
    reasoner, problems = load("tiny-gpt2"), sample("arithmetic", n=2)
    run = extract(reasoner, problems, tmp_path / "run", n_thoughts=4)
    found = json.loads(write_readings(run, reasoner).read_text("utf-8"))
    decoded = decode_thoughts(reasoner, problems, n_thoughts=4).sel(stage="state_in")
    for row, problem in enumerate(problems):
        reading = found["problems"][problem.id]
        assert [[token for token, _ in of] for of in reading["decoded"]] == decoded["token"][row].values.tolist()
        assert "".join(reading["tokens"]).strip() == problem.question
        [looked] = question_attention(reasoner, [problem], n_thoughts=4)
        np.testing.assert_allclose(reading["attention"]["z4"], looked["attention"].sel(query="z4"), atol=6e-5)
    assert [check["passed"] for check in found["checks"]] == [True] * 7
    assert read_readings(run) == found
    assert read_readings(replace(run, manifest=run.manifest | {"results": "others"})) == {}
