"""Runs of checkpoints that lack slots are analysed, drawn and reported like any other."""

from dataclasses import replace

import numpy as np
import pytest
from tests.attention_made import unsaved
from tests.conftest import QUESTIONS, random_reasoner

import thoughtlens as tl
from thoughtlens.analysis import composition, rollout
from thoughtlens.analysis.nulls import causal_uniform
from thoughtlens.models import Coconut, Markers, Wording
from thoughtlens.problems import Problem
from thoughtlens.runs import MEAN, extract

PROBLEMS = [Problem(f"p{row}", question, "8") for row, question in enumerate(QUESTIONS)]


def at_once(tokenizer):
    """Says the value at once: no `answer`."""
    return replace(random_reasoner("llama", tokenizer), wording=Wording(prefix=""))


def without_markers(tokenizer):
    """Neither `bot` nor `eot`; a token of the question's vocabulary closes, and is the `answer` query."""
    codi = random_reasoner("gpt2", tokenizer)
    markers = Markers(codi.lm.config.vocab_size, ())
    return Coconut(codi.lm, codi.projection, tokenizer, markers, wording=Wording(after=(7,), prefix=""))


@pytest.fixture(scope="module", params=[at_once, without_markers], ids=lambda make: make.__name__)
def run(request, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return extract(request.param(tokenizer), PROBLEMS, out, dtype="float32", max_new_tokens=3)


def test_everything_is_analysed_and_written(run):
    with unsaved():
        analysis = tl.analyze(run, n_resamples=20, name="few")
    tl.reports.write_reports(run, analysis, figures=False)
    attention = run.attention["attention"].astype(np.float64)
    thoughts = [f"z{k}" for k in range(1, 7)]
    earlier = attention.sel(query="z4", key=thoughts[:3]).sum("key").mean(["problem", "layer", "head"])
    part = analysis.composition.sel(query="z4", part="earlier thoughts", value="estimate")
    assert float(part["composition"]) == pytest.approx(float(earlier), abs=1e-6)
    for lacking in {"bot", "eot", "answer"} - set(attention["query"].values):
        assert int(analysis.composition["n"].sel(query=lacking)) == 0
    reading = "answer" if "answer" in attention["query"].values else "eot"
    given = attention.sel(query=reading, key=thoughts).sum(["problem", "layer", "head"])
    share = analysis.readout.sel(query=reading, value="estimate")
    np.testing.assert_allclose(share["readout"].values, given / given.sum(), atol=1e-6)


def test_an_even_row_is_its_own_null_and_rolls_out_whole(run):
    dataset = next(run.blocks())
    attention = dataset["attention"].astype(np.float64)
    expected = causal_uniform(attention, dataset["n_question_tokens"])
    lacking = [name for name in ("bot", "eot", "answer") if name not in attention["key"].values]
    assert float(abs(expected.sel(key=lacking)).max()) == 0.0
    there = expected.sel(query=attention["query"])
    np.testing.assert_allclose(there.sum("key"), 1.0, atol=1e-9)
    rolled = rollout(attention).sel(query=attention["query"])
    sources = [name for name in rolled["key"].values if not str(name).startswith("z")]
    np.testing.assert_allclose(rolled.sel(key=sources).sum("key"), 1.0, atol=1e-5)
    np.testing.assert_allclose(composition(attention).sum("part"), 1.0, atol=1e-5)


def test_means_are_kept_of_it_too(tokenizer, tmp_path):
    reasoner, brief = without_markers(tokenizer), {"max_new_tokens": 2}
    kept = extract(reasoner, PROBLEMS, tmp_path / "run", keep=MEAN, **brief)
    whole = extract(reasoner, PROBLEMS, tmp_path / "whole", dtype="float32", **brief)
    with unsaved():
        found = tl.analyze(kept, n_resamples=20, name="few").composition["composition"]
    expected = composition(whole.attention["attention"].astype(np.float64)).mean(("problem", "layer", "head"))
    np.testing.assert_allclose(*(parts.sel(query="z4") for parts in (found.sel(value="estimate"), expected)), atol=1e-5)
