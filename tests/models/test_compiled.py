"""The compiled Coconut: against breadth-first search, the model with edited weights, and groups found by a pattern."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from tests.conftest import usually
from transformers import DynamicCache

import thoughtlens as tl
from thoughtlens.cuts import Zero, ablate_head, knock_out, zero_value_edge
from thoughtlens.errors import CheckpointError, OptionError
from thoughtlens.evaluation import SUBJECTS, group_attention
from thoughtlens.evaluation.ranking_scorecard import JOINT, auroc, by_cause, by_joint_cause, single_heads
from thoughtlens.models import circuit, compiled_reasoner, load
from thoughtlens.notation import head_name
from thoughtlens.problems import load_set, sample
from thoughtlens.reasoning import reason

GRAPHS = sample("graphs", n=24, seed=5)
# The model in which single cuts miss something; the one without twins by night.
WITH_TWIN = usually(True, of=[False, True])
HEADS = [(layer, head) for layer in (0, 1) for head in range(8)]


@pytest.fixture(scope="module")
def reasoner():
    return compiled_reasoner()


@pytest.fixture(scope="module")
def twins():
    return compiled_reasoner(twin=True)


def reached(question: str, n_steps: int) -> set[int]:
    """The nodes within so many steps of the root, by breadth-first search in the question's text."""
    edges = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) (\d+) (?:\||\[Q\])", question)]
    found = {int(question.split()[-1])}
    for _ in range(n_steps):
        found |= {end for source, end in edges if source in found}
    return found


@torch.inference_mode()
def held(reasoner, thought: torch.Tensor) -> set[int]:
    """The nodes that a thought holds, read by the embeddings of tokens."""
    amplitudes = thought @ reasoner.lm.transformer.wte.weight[:31].T
    assert ((amplitudes < 0.02) | (abs(amplitudes - 1) < 0.02)).all()
    return set((amplitudes > 0.5).nonzero().flatten().tolist())


def answers(reasoner, problems, taps=()) -> list[str]:
    return reason(reasoner, [problem.question for problem in problems], taps=taps, max_new_tokens=4).texts


def right(reasoner, problems, taps=()) -> float:
    given = zip(answers(reasoner, problems, taps), problems, strict=True)
    return sum(text == problem.answer for text, problem in given) / len(problems)


def test_published_graphs_are_solved(data_folder, reasoner):
    files = [data_folder / f"superposition_graphs_{split}.json" for split in ("test", "valid")]
    problems = [problem for file in files for problem in sample(file, n=20, seed=1, fields={"question": "edges"})]
    assert right(reasoner, problems) == 1.0


def test_thought_k_holds_the_nodes_within_k_steps(reasoner):
    trace = reason(reasoner, [problem.question for problem in GRAPHS])
    for thoughts, problem, text in zip(trace.thoughts, GRAPHS, trace.texts, strict=True):
        assert [held(reasoner, thought) for thought in thoughts] == [reached(problem.question, k) for k in (1, 2, 3, 4)]
        assert text == problem.answer
        assert int(problem.answer) in reached(problem.question, 4)


def naive_answer(reader, thinker, problem) -> int:
    """The next token after [A], one problem at a time: the question read by one model, all later positions by another.

    Positions have no padding; attention is transformers' own.
    """
    symbols = {"|": 34, "[Q]": 35, "[R]": 36, "<eos>": 38}
    ids = [symbols[sign] if sign in symbols else int(sign) for sign in problem.question.split()]
    cache = DynamicCache(config=reader.config)
    state = reader.transformer(torch.tensor([ids]), past_key_values=cache, use_cache=True).last_hidden_state[:, -1:]
    for _ in range(4):
        state = thinker.transformer(inputs_embeds=state, past_key_values=cache, use_cache=True).last_hidden_state
    out = thinker(torch.tensor([[37]]), past_key_values=cache, use_cache=True)
    return int(out.logits[0, -1].argmax())


def without(lm, layer: int, head: int):
    """The model whose head writes nothing: its rows of the output projection are zero."""
    edited = copy.deepcopy(lm)
    edited.transformer.h[layer].attn.c_proj.weight.data[32 * head : 32 * (head + 1)] = 0.0
    return edited


@pytest.mark.parametrize("twin", WITH_TWIN)
@torch.inference_mode()
def test_cutting_a_head_is_zeroing_its_output_matrix(twin, reasoner, twins):
    tested = twins if twin else reasoner
    reader = copy.deepcopy(tested.lm)
    reader.set_attn_implementation("eager")
    deepest = [problem for problem in GRAPHS if len(problem.steps) == 4][:3]
    for place in [*{*HEADS[5:6], *HEADS[9:13], HEADS[14]}]:
        thinker = without(reader, *place)
        said = [naive_answer(reader, thinker, problem) for problem in deepest]
        cut = answers(tested, deepest, ablate_head(place, edit=Zero()).parts)
        # Where [A] says no node, what is decoded is the text after it.
        assert [str(token) for token in said if token <= 30] == [
            text for text, t in zip(cut, said, strict=True) if t <= 30
        ]


@pytest.mark.parametrize("twin", WITH_TWIN)
def test_the_circuit_is_what_single_cuts_find_but_for_twins(twin, reasoner, twins):
    """Cut from the first thought on: chance is half, and without candidates nothing is said."""
    tested = twins if twin else reasoner
    deep = [problem for problem in GRAPHS if len(problem.steps) == 4][:8]
    accuracy = {head_name(*place): right(tested, deep, ablate_head(place, edit=Zero()).parts) for place in HEADS}
    lost = {head for head, share in accuracy.items() if share < 1.0}
    stand_ins = {"L1H1", "L1H4"} if twin else set()
    assert lost == circuit(twin=twin)["heads"] - stand_ins
    both = (*ablate_head("L1H1", edit=Zero()).parts, *ablate_head("L1H4", edit=Zero()).parts)
    assert right(tested, deep, both) < 1.0


def test_groups_are_where_the_signs_are(reasoner):
    for problem in GRAPHS[:6]:
        signs = problem.question.split()
        q, r = signs.index("[Q]"), signs.index("[R]")
        by_sign = {
            "sep": [k for k, sign in enumerate(signs) if sign in ("|", "[Q]")],
            "src": [k - 2 for k, sign in enumerate(signs) if sign in ("|", "[Q]")],
            "tgt": [k - 1 for k, sign in enumerate(signs) if sign in ("|", "[Q]")],
            "cand": [q + 1, q + 2],
            "R": [r],
            "root": [len(signs) - 1],
        }
        found = reasoner.groups(reasoner.prompt(problem.question))
        assert found == by_sign
        assert sorted(k for places in found.values() for k in places) == list(range(1, len(signs)))


def test_attention_to_groups_is_that_of_the_construction(reasoner):
    found = group_attention(reasoner, GRAPHS[:5], batch_size=3)
    sums = found["attention"].sum("key")
    assert abs(sums - 1).max() < 1e-5
    edge = found["attention"].sel(layer=1, head=1)
    assert float(edge.sel(query="z1", key="sep").min()) > 0.999  # every root has an edge
    assert float(edge.sel(query="eot", key="first").min()) > 0.999  # rests
    n = found["n_tokens"].sum("key")
    lengths = [len(problem.question.split()) + 5 for problem in GRAPHS[:5]]
    assert n.values.tolist() == lengths
    even = found["attention"].sel(layer=1, head=6, query="eot", key="R")
    assert even.values == pytest.approx([1 / length for length in lengths], abs=1e-5)
    assert float(found["value_weighted"].sel(layer=1, head=4).max()) == 0.0  # the decoy looks and gives nothing
    with pytest.raises(OptionError, match="tiny-gpt2 names no groups of prompt tokens"):
        group_attention(load("tiny-gpt2"), GRAPHS[:1])


def test_a_cut_edge_to_a_group_costs_a_thought_its_step(reasoner, tmp_path):
    """Without its keys a thought fetches nothing, so that the next one holds what it held: one step is lost."""
    run = tl.extract(reasoner, GRAPHS, tmp_path / "run")
    late = zero_value_edge("z4", "sep", layers=[1], heads=[1])  # makes a fifth thought, which is never fed back
    parts = ("src", "tgt", "sep", "cand", "R", "root")
    cuts = [zero_value_edge("z1", "sep", layers=[1], heads=[1]), late]
    cuts += [zero_value_edge("z2", "question"), zero_value_edge("z2", parts)]
    found = tl.intervene(run, cuts, study="groups", reasoner=reasoner)["correct"]
    correct = dict(zip(found["intervention"].values, found.transpose("intervention", "problem").values, strict=True))
    cut, none, whole, pieces = (correct[made.label] for made in cuts)
    shallow = [len(problem.steps) == 3 for problem in GRAPHS]
    assert none.all() and cut[shallow].all() and not cut.all()
    assert whole.tolist() == pieces.tolist() and not whole.all()
    with pytest.raises(OptionError, match="names 'nodes' among its keys"):
        tl.intervene(run, [zero_value_edge("z1", "nodes")], study="odd", reasoner=reasoner)
    named = tl.plan_cuts(run, edges="z1:sep,eot:R")
    assert [made.unit for made in named.cuts] == ["z1 ⊣ sep", "eot ⊣ R"]
    blocked = tl.intervene(run, named, study="named", reasoner=reasoner)["correct"]
    edges = [knock_out("z1", "sep"), knock_out("eot", "R")]
    built = tl.intervene(run, edges, study="built", reasoner=reasoner)["correct"]
    assert blocked.values.tolist() == built.values.tolist()


def test_groups_of_a_model_without_any_are_refused(tmp_path):
    run = tl.extract(load("tiny-gpt2"), sample("arithmetic", n=1), tmp_path / "run")
    for cuts in ([zero_value_edge("z2", "sep")], tl.plan_cuts(run, edges="z2:sep")):
        with pytest.raises(OptionError, match="names 'sep' among its keys, expected answer, bot"):
            tl.intervene(run, cuts, study="s")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(CheckpointError, match=f"compiled was asked for in {dtype}, expected float32"):
        load("compiled", dtype=dtype)


def test_questions_in_words_are_refused(reasoner):
    with pytest.raises(OptionError, match=r"found 'Eva' in a question, expected a graph .* --field question=edges"):
        reasoner.prompt("Eva is a tompus. Is Eva a vompus or kurpus?")


def test_the_model_is_the_same_wherever_it_is_built(tmp_path):
    (tmp_path / "thoughtlens.json").write_text(json.dumps({"family": "compiled", "twin": True}))
    digests = [model.provenance["sha256"] for model in (load("compiled"), load("compiled-twin"), load(tmp_path))]
    assert digests[0] != digests[1] == digests[2]


@pytest.mark.parametrize(("twin", "alone"), [pytest.param(False, 1.0, marks=pytest.mark.nightly), (True, 0.75)])
def test_joint_cuts_find_the_twins_that_single_cuts_miss(twin, alone, reasoner, twins, tmp_path):
    tested, subject = (twins, SUBJECTS[4]) if twin else (reasoner, SUBJECTS[3])
    assert subject.name == ("compiled, with twin" if twin else "compiled")
    run = tl.extract(tested, GRAPHS[:4], tmp_path / "run")
    cuts = single_heads(run)["zero"]
    single = by_cause(run, tested, {"zero": cuts}, "heads")["zero"]
    found = {"single": single, "joint": by_joint_cause(run, tested)[JOINT]}
    in_circuit = [name in subject.heads for name in cuts]
    # Below half precision's last digit nothing is told apart, as in the scorecard.
    scores = {by: auroc(of.mean("problem").round(4).values, np.array(in_circuit)) for by, of in found.items()}
    assert scores == {"single": pytest.approx(alone), "joint": 1.0}


def test_the_card_holds_on_a_sample():
    for name in ("compiled", "compiled-twin"):
        claimed = tl.models.read_card(name)
        assert claimed["accuracy"]["own"]["accuracy"] == 1.0
        assert claimed["problems"]["fingerprint"] == load_set("graphs").fingerprint


def test_the_page_of_a_run_without_all_slots_is_written(tmp_path):
    """`answer` is on no axis of the run; the page has a place for it, and nothing in it."""
    run = tl.extract(tl.load("compiled"), tl.sample("graphs", n=5), tmp_path / "run")
    assert "answer" not in run.attention["query"].values
    page = tl.reports.write_report(run).path.read_text("utf-8")
    assert "Of its attention a thought gives" in page
    assert "% to the opening marker" not in page  # `bot`, which it lacks too
