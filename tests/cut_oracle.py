"""Cuts without any of the package's machinery: one problem at a time, transformers' eager attention, edited weights.

The question is read by the model as it is, and everything from `bot` on by an edited copy of it, as an intervention has
it. Or whole sequences are run again and again under an attention mask with holes.
"""

import copy
from typing import NamedTuple

import torch

from tests.oracle import eager
from thoughtlens.cuts.passes import Cutting, Outcomes, batch_of
from thoughtlens.problems import Problem

PROBLEMS = [
    Problem("tom", "Tom has 5 apples. He buys 3 more. How many apples does he have?", "8", ("<<5+3=8>>",)),
    Problem("few", "How many?", "1234", ("<<1+1=2>>", "<<2+2=4>>")),
    Problem(
        "eva",
        "Eva has 12 books. She finds 3 more. She wins 1 more. She loses 9. How many books does she have now?",
        "-5.5",
        ("<<12+3=15>>",),
    ),
    Problem("ann", "Ann has 2 bags of 4 pens. She doubles them. How many pens does she have?", "16", ("a", "b")),
]


class Naive(NamedTuple):
    """What one problem came to: thoughts (thought, hidden), log-probabilities of prefix and answer, distribution."""

    thoughts: torch.Tensor
    prefix: float
    logprob: float
    first: torch.Tensor


class Outcome(NamedTuple):
    """What one cut does to one problem."""

    correct: bool
    said_prefix: bool
    prefix_logprob: float
    gold_logprob: float
    joint_logprob: float
    kl: float
    answer: str
    failure: str


def rows(found: Outcomes):
    """Outcomes problem by problem: a list a cut."""
    columns = [array.tolist() for array in found]
    return [[Outcome(*values) for values in zip(*its, strict=True)] for its in zip(*columns, strict=True)]


def outcomes(reasoner, cuts, problems=PROBLEMS, n_thoughts=6):
    """Outcomes of bare interventions, that need no values of other passes: a list a cut."""
    cutting = Cutting(reasoner, batch_of(reasoner, problems, n_thoughts), n_thoughts)
    return rows(cutting.outcomes([cut.parts for cut in cuts]))


def projections(lm, layer):
    """Weight of a layer's output projection, its head channels first."""
    if lm.config.model_type == "gpt2":
        return lm.transformer.h[layer].attn.c_proj.weight  # (in, out)
    return lm.model.layers[layer].self_attn.o_proj.weight.T  # (out, in)


def without_heads(reasoner, places):
    """A copy of the model in which the rows of these heads (layer, head) of the output projections are zero."""
    lm = copy.deepcopy(reasoner.lm)
    width = lm.config.hidden_size // lm.config.num_attention_heads
    with torch.no_grad():
        for layer, head in places:
            projections(lm, layer)[head * width : (head + 1) * width] = 0
    return lm


def every_head(reasoner):
    """(layer, head) of all heads."""
    config = reasoner.lm.config
    return [(layer, head) for layer in range(config.num_hidden_layers) for head in range(config.num_attention_heads)]


@torch.no_grad()
def late(reasoner, after, problem, *, n_thoughts=6, given=None):
    """A question read by the model and everything after it by `after`; thoughts may be given instead of thought."""
    before, after = eager(reasoner.lm), eager(after)
    past = before.base_model(torch.tensor([reasoner.question(problem.question)]), use_cache=True).past_key_values
    embed = after.get_input_embeddings()

    def read(inputs):
        return after.base_model(inputs_embeds=inputs, past_key_values=past, use_cache=True).last_hidden_state[:, -1]

    def token(number):
        return read(embed(torch.tensor([[number]])))

    state, thoughts = token(reasoner.markers.bot), []
    for place in range(n_thoughts):
        thoughts.append(reasoner.projection(state) if given is None else given[place][None])
        state = read(thoughts[-1][:, None])
    state, known = token(reasoner.markers.eot), []
    prefix, value = reasoner.spoken(problem.answer)
    for number in [*prefix, *value]:
        known.append(after.lm_head(state)[0, : reasoner.markers.eot].log_softmax(-1))
        state = token(number)
    return Naive(_stacked(thoughts), *_of_value(known, prefix, value))


@torch.no_grad()
def masked(reasoner, problem, holes, *, n_thoughts=6, thoughts=None):
    """Whole sequences under a mask with holes, all layers alike.

    holes: (heads or None for all, names of queries, names of keys), each blocked.
    """
    lm = eager(reasoner.lm)
    embed = lm.get_input_embeddings()
    question = reasoner.question(problem.question)
    prefix, value = reasoner.spoken(problem.answer)
    keys = ["first", *["question"] * (len(question) - 1), "bot"]
    queries = list(keys)
    sequence = embed(torch.tensor([[*question, reasoner.markers.bot]]))
    made = []
    for place in range(n_thoughts):
        state = _run(lm, sequence, queries, keys, holes)[:, -1]
        made.append(reasoner.projection(state))
        sequence = torch.cat([sequence, made[-1][:, None]], dim=1)
        keys, queries = [*keys, f"z{place + 1}"], [*queries, f"z{place + 1}"]
    rest = [reasoner.markers.eot, *prefix, *value]
    keys = [*keys, "eot", *["answer"] * len(prefix + value)]
    queries = [*queries, "eot", *["text"] * (len(prefix) - 1), "answer", *["text"] * len(value)]
    sequence = torch.cat([sequence, embed(torch.tensor([rest]))], dim=1)
    states = _run(lm, sequence, queries, keys, holes)[0]
    known = lm.lm_head(states)[:, : reasoner.markers.eot].log_softmax(-1)[-len(prefix + value) - 1 : -1]
    return Naive(_stacked(made), *_of_value(known, prefix, value))


def _run(lm, sequence, queries, keys, holes):
    n = len(keys)
    open_ = torch.ones(1, lm.config.num_attention_heads, n, n, dtype=torch.bool).tril()
    for heads, rows, columns in holes:
        row = torch.tensor([name in rows for name in queries])
        column = torch.tensor([name in columns for name in keys])
        which = slice(None) if heads is None else sorted(heads)
        open_[:, which] &= ~(row[:, None] & column[None, :])
    mask = torch.zeros(open_.shape, dtype=sequence.dtype).masked_fill(~open_, torch.finfo(sequence.dtype).min)
    return lm.base_model(inputs_embeds=sequence, attention_mask=mask, use_cache=False).last_hidden_state


def _stacked(thoughts):
    return torch.cat(thoughts) if thoughts else torch.empty(0)


def _of_value(known, prefix, value):
    said = list(zip(known, [*prefix, *value], strict=True))
    of_prefix, of_value = said[: len(prefix)], said[len(prefix) :]
    sums = [sum(float(row[token]) for row, token in its) for its in (of_prefix, of_value)]
    return *sums, of_value[0][0]


def kl(baseline, cut):
    """KL(baseline ‖ cut) of two log-distributions, by the definition."""
    return float(sum(p.exp() * (p - q) for p, q in zip(baseline.double(), cut.double(), strict=True)))


def assert_as_naive(found, cut, plain, tolerance=3e-5):
    """Outcomes of problems against what naive passes came to, with the cut and without."""
    for outcome, naive, before in zip(found, cut, plain, strict=True):
        assert not outcome.failure
        assert abs(outcome.gold_logprob - naive.logprob) < tolerance
        assert abs(outcome.prefix_logprob - naive.prefix) < tolerance
        assert abs(outcome.joint_logprob - naive.prefix - naive.logprob) < 2 * tolerance
        assert abs(outcome.kl - kl(before.first, naive.first)) < tolerance / 10
