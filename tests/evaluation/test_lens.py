"""Reading thoughts through the output layer, against whole-sequence passes and plain loops."""

import pytest
import torch
from tests import oracle
from tests.conftest import QUESTIONS

from thoughtlens.errors import OptionError
from thoughtlens.evaluation import decode_thoughts, evaluate, results_read
from thoughtlens.models import load
from thoughtlens.problems import Problem, sample

PROBLEMS = [Problem(f"p{row}", question, "8", ("<<5+3=8>>",)) for row, question in enumerate(QUESTIONS)]


def test_tokens_are_those_of_the_output_layer_at_each_stage(reasoner):
    decoded = decode_thoughts(reasoner, PROBLEMS, n_top=3, batch_size=3)
    eager = oracle.eager(reasoner.lm)
    for problem in PROBLEMS:
        ids = reasoner.tokenizer(problem.question)["input_ids"]
        sequence, thoughts = oracle.think(
            eager, reasoner.projection, ids, reasoner.markers.bot, reasoner.markers.eot, 6
        )
        with torch.no_grad():
            states = eager.base_model(inputs_embeds=sequence, use_cache=False).last_hidden_state[0, len(ids) : -1]
            stages = {"state_in": states[:-1], "thought": thoughts, "state_out": states[1:]}
            for stage, vectors in stages.items():
                top = eager.lm_head(vectors).softmax(-1).topk(3)
                found = decoded.sel(problem=problem.id, stage=stage)
                said = [[reasoner.decode([i]).strip() for i in row] for row in top.indices.tolist()]
                assert found["token"].values.tolist() == said
                torch.testing.assert_close(torch.tensor(found["probability"].values), top.values, rtol=0, atol=1e-5)


def test_shares_are_those_of_plain_loops():
    problems = sample("arithmetic", n=40)
    decoded = decode_thoughts(load("tiny-gpt2"), problems)
    read = results_read(decoded, problems)
    for step in (1, 3):
        having = [problem for problem in problems if len(problem.steps) >= step]
        results = [problem.steps[step - 1].split("=")[1].rstrip(">") for problem in having]
        for name, wanted in (("own", results), ("other", results[1:] + results[:1])):
            hits = 0
            for problem, result in zip(having, wanted, strict=True):
                tokens = decoded["token"].sel(problem=problem.id, stage="state_out", thought="z3").values
                hits += result in list(tokens)
            found = float(read[name].sel(step=step, stage="state_out", thought="z3"))
            assert found == pytest.approx(hits / len(having))


def test_no_token_is_refused(reasoner):
    with pytest.raises(OptionError, match="expected at least 1"):
        decode_thoughts(reasoner, PROBLEMS, n_top=0)


def test_an_unknown_condition_is_refused(reasoner):
    with pytest.raises(OptionError, match="no condition 'asleep'; there are: own, none, zeroed"):
        evaluate(reasoner, PROBLEMS, conditions=["own", "asleep"])
