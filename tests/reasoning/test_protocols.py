"""Official padding: the reference outputs of the official loop, and a loop written out for the rows that it lacks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import random_reasoner
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from thoughtlens.evaluation import padding_mass
from thoughtlens.models import Codi, Markers, projection
from thoughtlens.models.checkpoint_weights import merged, sort_keys
from thoughtlens.problems import Problem
from thoughtlens.reasoning import PROTOCOLS, BatchPass, protocol_named, think
from thoughtlens.runs import extract
from thoughtlens.taps import ATTENTION, PADDED_ROWS, Taps

FOLDER = Path(__file__).parents[1] / "data" / "official_padding"
V, HIDDEN, N_PADDED, N_THOUGHTS = 97, 32, 4, 6
TOLERANCE = 2e-4


class NoWords:
    """Stands where a tokenizer is not asked for anything but its end token."""

    eos_token_id = 0


def reference(family):
    """The merged model of the reference state, and what the official loop gave."""
    if family == "gpt2":
        sizes = {"n_embd": HIDDEN, "n_layer": 3, "n_head": 4, "n_positions": 128}
        config = GPT2Config(vocab_size=V + 3, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False, **sizes)
        kind = GPT2LMHeadModel
    else:
        sizes = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=V + 3, num_key_value_heads=2, bos_token_id=0, eos_token_id=0, **sizes)
        kind = LlamaForCausalLM
    config._attn_implementation = ATTENTION
    found = sort_keys(load_file(FOLDER / f"{family}_state.safetensors"), family)
    lm = kind(config).eval()
    lm.load_state_dict(merged(found, alpha=2, transposed=family == "gpt2", where=family))
    prj = projection(*found.projection["1.weight"].shape[::-1])
    prj.load_state_dict(found.projection)
    return Codi(lm, prj.eval(), NoWords(), Markers(V), N_THOUGHTS), np.load(FOLDER / f"{family}_outputs.npz")


def prompt():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(2, 95, (1, 7), generator=generator)[0].tolist()


def test_each_way_to_give_padded_rows_has_a_protocol():
    assert {protocol.padded_rows for protocol in PROTOCOLS.values() if protocol.official} == set(PADDED_ROWS)


@torch.inference_mode()
def passed(reasoner, protocol, padded):
    """Thoughts with the state after the last one fed back, logits at eot, and keys and values of the prompt."""
    batch = BatchPass(reasoner, Taps([lambda tensor, moment: tensor]), N_THOUGHTS, protocol_named(protocol))
    longer = [prompt()[:1] * N_PADDED + prompt()] if padded else []
    batch.question([prompt(), *longer])
    batch.keep(torch.tensor([0]))
    layers = [(layer.keys.clone(), layer.values.clone()) for layer in batch.context.cache.layers]
    thinking = think(batch, reasoner.markers.bot, N_THOUGHTS)
    fed_back = reasoner.feed_back(thinking.states[0])[None]
    logits = reasoner.lm.get_output_embeddings()(thinking.state)
    keys, values = (torch.stack(kind) for kind in zip(*layers, strict=True))
    return {"z": fed_back, "l": logits, "k": keys, "v": values}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_official_loop_is_followed_on_cpu_under_both_versions(family):
    reasoner, outputs = reference(family)
    for version, protocol in (("v4", "official-padding-v4-cpu"), ("v5", "official-padding-v5")):
        alone, padded = passed(reasoner, protocol, False), passed(reasoner, protocol, True)
        for found, name in ((alone, "z1"), (alone, "l1"), (padded, "z2"), (padded, "l2")):
            expected = torch.tensor(outputs[f"{version}_{name}"])
            torch.testing.assert_close(found[name[0]], expected, rtol=0, atol=TOLERANCE)
        for name in "kv":
            expected = torch.tensor(outputs[f"{version}_{name}"])
            # Those of the question; `bot` was read with it by the official code.
            torch.testing.assert_close(padded[name], expected[..., :-1, :], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_two_protocols_agree_on_padded_thoughts(family):
    reasoner, _ = reference(family)
    names = ("exact", "official-padding-v4-cpu", "official-padding-v4-cuda", "official-padding-v5")
    found = [passed(reasoner, name, True) for name in names]
    for first in range(4):
        for second in range(first):
            assert (found[first]["z"][:, 1:] - found[second]["z"][:, 1:]).abs().max() > 0.01
    exact = passed(reasoner, "exact", False)
    torch.testing.assert_close(found[0]["z"], exact["z"], rtol=0, atol=1e-5)


@torch.no_grad()
def unmasked_loop(reasoner, ids, n_padded):
    """GPT-2's inference written out: the prompt padded, rows of padding unmasked, later passes without any mask."""
    lm, states, kept = reasoner.lm, [], [None] * 3
    heads = lm.config.n_head

    def split(x):
        return x.view(x.shape[0], heads, -1).transpose(0, 1)

    def read(x, mask):
        for index, block in enumerate(lm.transformer.h):
            q, k, v = (split(part) for part in block.attn.c_attn(block.ln_1(x)).split(HIDDEN, dim=-1))
            if kept[index] is not None:
                k, v = (torch.cat(pair, dim=1) for pair in zip(kept[index], (k, v), strict=True))
            kept[index] = k, v
            scores = q @ k.transpose(1, 2) / k.shape[-1] ** 0.5
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            x = x + block.attn.c_proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(x.shape))
            x = x + block.mlp(block.ln_2(x))
        return lm.transformer.ln_f(x)

    tokens = torch.tensor([V] * n_padded + [*ids, V + 1])
    n = len(tokens)
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, :n_padded] = False
    mask[:n_padded] = True
    places = lm.transformer.wpe.weight
    thought = reasoner.projection(read(lm.transformer.wte(tokens) + places[:n], mask)[-1])
    states.append(thought)
    for step in range(N_THOUGHTS):
        thought = reasoner.projection(read((thought + places[n + step])[None], None)[-1])
        states.append(thought)
    return torch.stack(states)[None]


def test_unmasked_padded_rows_are_those_of_a_loop_written_out():
    reasoner, _ = reference("gpt2")
    reasoner.lm.transformer.wpe = nn.Embedding.from_pretrained(reasoner.lm.transformer.wpe.weight)
    expected = unmasked_loop(reasoner, prompt(), N_PADDED)
    found = passed(reasoner, "official-padding-v4-cuda", True)["z"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_run_says_what_its_rows_give_to_padding(tokenizer, tmp_path):
    reasoner = random_reasoner("gpt2", tokenizer, n_thoughts=2)
    problems = [Problem(f"p{n}", "How many? " * n, "8") for n in (1, 4, 2)]
    how = {"dtype": "float32", "max_new_tokens": 8}
    run = extract(reasoner, problems, tmp_path / "run", batch_size=2, protocol="official-padding-v5", **how)
    mass = run.attention["padding_mass"].isel(query=slice(0, 4))
    thoughts = mass.sel(query=["z1", "z2", "eot"])
    assert (thoughts.sel(problem="p1") > 0).all()
    assert float(mass.sel(query="bot").max()) == float(mass.sel(problem=["p4", "p2"]).max()) == 0.0
    whole = run.attention["attention"].sum("key").isel(query=slice(0, 4)) + mass
    np.testing.assert_allclose(whole.values, 1.0, atol=1e-5)
    assert run.manifest["options"]["protocol"] == "official-padding-v5"
    assert padding_mass(run) == pytest.approx(float(mass.sel(query=["z1", "z2"]).mean()))
    exact = extract(reasoner, problems[:1], tmp_path / "exact", **how)
    assert padding_mass(exact) is None and "padding_mass" not in exact.attention
