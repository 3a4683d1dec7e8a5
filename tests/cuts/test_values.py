"""Value-weighted patterns against vectors worked out token by token, from transformers' own eager pass."""

import pytest
import torch
from tests import oracle
from tests.conftest import QUESTIONS, Scripted, random_reasoner
from tests.reasoning.test_reasoning import value_index

from thoughtlens.errors import CheckpointError
from thoughtlens.models import norm_factors, output_projections
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.taps import Site, ValueRecorder

SAID = ["The answer is: 8", "The answer is:  17.", "<<12+3=15>> The answer is: 6", "I do not know"]


def recorded(reasoner, questions=QUESTIONS, *, before=(), **options):
    """Value-weighted rows (problem, layer, head, query, key) of a pass, taps before the recorder included."""
    rows = recorder_for(getattr(reasoner, "reasoner", reasoner), len(questions), 6)
    reason(reasoner, questions, taps=[*before, ValueRecorder(rows, norm_factors(reasoner.lm))], **options)
    return rows.attention


def attention_layers(lm):
    if lm.config.model_type == "gpt2":
        return [block.attn for block in lm.transformer.h]
    return [block.self_attn for block in lm.model.layers]


def parts(lm):
    """Submodule and slice that give the values, the output projection, and its bias, of each layer."""
    for layer in attention_layers(lm):
        if lm.config.model_type == "gpt2":
            yield layer.c_attn, slice(2 * layer.split_size, None), layer.c_proj, layer.c_proj.bias
        else:
            yield layer.v_proj, slice(None), layer.o_proj, torch.zeros(())


@torch.no_grad()
def eager_pass(lm, embeddings):
    """Of one sequence: patterns (head, query, key), values (position, key-value channels), head outputs as they enter
    the output projection (query, channels), and what leaves it (query, hidden), a layer each."""
    kept = {}
    hooks = []
    for index, (value, where, output, _) in enumerate(parts(lm)):

        def keep_values(module, given, out, index=index, where=where):
            kept["values", index] = out[0, :, where]

        def keep_heads(module, given, out, index=index):
            kept["heads", index], kept["out", index] = given[0][0], out[0]

        hooks += [value.register_forward_hook(keep_values), output.register_forward_hook(keep_heads)]
    patterns = lm.base_model(inputs_embeds=embeddings, use_cache=False, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    return [
        (pattern[0], *(kept[name, index] for name in ("values", "heads", "out")))
        for index, pattern in enumerate(patterns)
    ]


def naive_vectors(lm, index, pattern, values):
    """α[q, k] v[k] W_O of every head, query and key (head, query, key, hidden): one token at a time."""
    n_heads, n_positions = pattern.shape[:2]
    width = values.shape[1] // (lm.config.num_key_value_heads if lm.config.model_type == "llama" else n_heads)
    n_sharing = n_heads * width // values.shape[1]
    _, _, output, bias = list(parts(lm))[index]
    vectors = torch.zeros(n_heads, n_positions, n_positions, lm.config.hidden_size)
    for head in range(n_heads):
        own = slice(head // n_sharing * width, (head // n_sharing + 1) * width)
        for key in range(n_positions):
            alone = torch.zeros(n_heads * width)
            alone[head * width : (head + 1) * width] = values[key, own]
            offered = output(alone[None])[0] - bias
            for query in range(n_positions):
                vectors[head, query, key] = pattern[head, query, key] * offered
    return vectors


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def worked_out(request, tokenizer):
    """The first question's whole sequence up to the end of the answer prefix, layer by layer."""
    reasoner = random_reasoner(request.param, tokenizer)
    with torch.no_grad():  # initialised as 0, which would hide a bias that is counted in
        for name, parameter in reasoner.lm.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    lm = oracle.eager(reasoner.lm)
    ids = tokenizer(QUESTIONS[0])["input_ids"]
    sequence, _ = oracle.think(lm, reasoner.projection, ids, reasoner.markers.bot, reasoner.markers.eot, 6)
    value_at, said = value_index(reasoner, SAID[0])
    prefix = said[:value_at]
    embeddings = torch.cat([sequence, lm.get_input_embeddings()(torch.tensor([prefix]))], dim=1)
    with torch.no_grad():
        layers = eager_pass(lm, embeddings)
        vectors = [naive_vectors(lm, index, layer[0], layer[1]) for index, layer in enumerate(layers)]
    return reasoner, lm, layers, vectors, len(ids)


def test_vectors_add_up_to_the_output_of_head_and_layer(worked_out):
    """Over keys to what the head contributes, and over heads to the attention layer's output without its bias."""
    reasoner, lm, layers, vectors, _ = worked_out
    slices = output_projections(reasoner.lm)
    for index, (_, _, heads, out) in enumerate(layers):
        contributions = torch.einsum("qhc,hcd->hqd", heads.unflatten(1, (len(slices[index]), -1)), slices[index])
        torch.testing.assert_close(vectors[index].sum(2), contributions, rtol=0, atol=1e-5)
        bias = list(parts(lm))[index][3]
        torch.testing.assert_close(vectors[index].sum((0, 2)), (out - bias).detach(), rtol=0, atol=1e-5)


def test_recorded_norms_are_those_of_the_vectors_summed_over_the_tokens_of_a_slot(worked_out):
    reasoner, _, _, vectors, n_question = worked_out
    kept = recorded(Scripted(reasoner, SAID))
    slots = [[0], range(1, n_question), *([n_question + step] for step in range(8))]
    queries = [n_question + step for step in range(8)]
    n_positions = vectors[0].shape[1]
    slots, queries = [*slots, range(n_question + 8, n_positions)], [*queries, n_positions - 1]
    for index, of_layer in enumerate(vectors):
        norms = of_layer.norm(dim=-1)
        for row, query in enumerate(queries):
            for column, slot in enumerate(slots):
                expected = sum(norms[:, query, key] for key in slot)
                found = kept[0, index, :, row, column]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_row_is_missing_where_its_query_is(reasoner):
    missing = recorded(Scripted(reasoner, SAID)).isnan().all(-1)
    assert missing[3, ..., -1].all()
    assert not missing[:3].any() and not missing[..., :-1].any()


def test_numbers_of_a_problem_do_not_depend_on_its_batch(reasoner):
    together = recorded(reasoner, max_new_tokens=2)
    for row, question in enumerate(QUESTIONS):
        alone = recorded(reasoner, [question], max_new_tokens=2)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_doubled_values_double_what_is_moved(reasoner):
    """A tap before the recorder that edits what keys offer; the pattern of the first layer does not see it."""

    def doubled(tensor, moment):
        return 2 * tensor if moment.site is Site.VALUE else tensor

    plain = recorded(reasoner, QUESTIONS[:1], max_new_tokens=1)
    twice = recorded(reasoner, QUESTIONS[:1], before=[doubled], max_new_tokens=1)
    first_row = (0, 0, slice(None), 0)  # layer 0 at bot: nothing upstream was edited
    torch.testing.assert_close(twice[first_row], 2 * plain[first_row])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_is_recorded_in_float32_at_least(dtype, tokenizer):
    reasoner = random_reasoner("gpt2", tokenizer, dtype)
    found = recorded(reasoner, QUESTIONS[:1], max_new_tokens=1)[..., :-1, :]
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.isfinite().all() and (found >= 0).all()


@pytest.mark.parametrize(("channels", "hidden"), [(4, 9), (4, 4), (6, 3)], ids=["wide", "square", "tall"])
def test_norms_are_those_of_the_projected_vectors_whatever_the_shape(channels, hidden, monkeypatch):
    torch.manual_seed(0)
    output = torch.randn(2, channels, hidden, dtype=torch.float64)
    output[1, 0] = output[1, 1]  # not of full rank
    monkeypatch.setattr("thoughtlens.models.reasoner.output_projections", lambda lm: [output])
    (factor,) = norm_factors(None)
    values = torch.randn(3, 2, 5, channels, dtype=torch.float64)
    torch.testing.assert_close((values @ factor).norm(dim=-1), (values @ output).norm(dim=-1))


def test_an_unknown_architecture_is_named(reasoner):
    class Other:
        config = type("Config", (), {"model_type": "mamba", "num_attention_heads": 1})
        base_model = None

    with pytest.raises(CheckpointError, match="no output projection is known for 'mamba'"):
        output_projections(Other())
