"""Checkpoints of every layout, built by peft, torch and transformers, give the numbers of that code."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tests import oracle
from tests.conftest import QUESTIONS
from tests.models.test_official_layout import HIDDEN, Made, base_model
from torch import nn
from transformers import AutoTokenizer

from thoughtlens.errors import CheckpointError
from thoughtlens.evaluation import described, doctor
from thoughtlens.models import Codi, assumptions, bundled, known_checkpoints, load, reasoner_of, symbol_tokenizer
from thoughtlens.problems import Problem
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.runs import extract

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUESTION = QUESTIONS[0]
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))


def sound(reasoner):
    assert [check for check in doctor(reasoner) if not check.passed] == []
    return described(reasoner)


def says(folder, **facts):
    (folder / "thoughtlens.json").write_text(json.dumps(facts))


# CODI


def test_the_words_around_the_thoughts_are_those_of_the_folder(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    says(made.folder, family="codi", lora_alpha=32, suffix=" Say it.", before=["eos"], prefix="")
    reasoner = made.load()
    v, end = len(tokenizer), tokenizer.eos_token_id
    ids = [*tokenizer(QUESTION + " Say it.")["input_ids"], end]
    assert reasoner.prompt(QUESTION) == [*ids, v + 1] and list(reasoner.closing) == [v + 2]
    lm = made.module.codi.get_base_model()
    sequence, thoughts = oracle.think(lm, made.module.prj, ids, v + 1, v + 2, 6)
    trace = reason(reasoner, [QUESTION], max_new_tokens=5)
    torch.testing.assert_close(trace.thoughts[0], thoughts, **TOLERANCE)
    assert trace.tokens[0] == oracle.greedy(lm, sequence, v + 2, end, 5)
    assert sound(reasoner)["answer"] == "the value at once"


def test_an_answer_said_at_once_is_predicted_at_eot(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    says(made.folder, family="codi", lora_alpha=32, prefix="", n_thoughts=4)
    problems = [Problem("p0", QUESTION, "8"), Problem("p1", QUESTIONS[1], "3")]
    run = extract(made.load(), problems, tmp_path / "run", max_new_tokens=4)
    attention = run.attention
    assert attention["query"].values.tolist() == ["bot", "z1", "z2", "z3", "z4", "eot"]
    assert attention["key"].values.tolist()[2:] == attention["query"].values.tolist()
    assert attention.attrs["answer_query"] == "eot"
    again = reasoner_of(run.manifest)
    assert again.spoken("8")[0] == [] and again.n_thoughts == 4


def test_with_the_end_token_around_the_thoughts(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    says(made.folder, family="codi", lora_alpha=32, remove_eos=False)
    reasoner, v, end = made.load(), len(tokenizer), tokenizer.eos_token_id
    assert reasoner.prompt(QUESTION)[-2:] == [end, v + 1] and list(reasoner.closing) == [v + 2, end]
    sound(reasoner)


def multimode(made):
    """As the official module, with two new ids alone."""
    rows = len(made.state["codi.base_model.model.transformer.wte.weight"]) - 1
    names = ("transformer.wte.weight", "lm_head.weight")
    return made.state | {
        f"codi.base_model.model.{name}": made.state[f"codi.base_model.model.{name}"][:rows] for name in names
    }


def test_one_set_of_weights_answers_three_ways(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    made.save(multimode(made))
    says(made.folder, family="codi", lora_alpha=32)
    v, end, ids = len(tokenizer), tokenizer.eos_token_id, tokenizer(QUESTION)["input_ids"]
    lm = made.module.codi.get_base_model()
    embed = lm.get_input_embeddings()
    latent, direct, verbal = (made.load(mode=mode) for mode in ("latent", "direct", "verbal"))
    _, thoughts = oracle.think(lm, made.module.prj, ids, v, v + 1, 6)
    torch.testing.assert_close(reason(latent, [QUESTION], max_new_tokens=4).thoughts[0], thoughts, **TOLERANCE)
    for reasoner, marker in ((direct, v + 1), (verbal, v)):
        trace = reason(reasoner, [QUESTION, QUESTIONS[1]], max_new_tokens=4)
        whole = embed(torch.tensor([[*ids, marker]]))
        lm_banned = [v + 1, v + 2] if marker == v + 1 else [v + 2]
        assert trace.tokens[0] == oracle.greedy(lm, whole, lm_banned, end, 4)
        assert trace.thoughts.shape[1] == 0
    assert (latent.slots, direct.slots, verbal.slots) == (
        {"bot", "eot", "answer"},
        {"eot", "answer"},
        {"bot", "answer"},
    )
    for reasoner in (latent, direct, verbal):
        sound(reasoner)
    made.save(made.state)
    with pytest.raises(CheckpointError, match="not trained to answer in the mode 'direct'"):
        made.load(mode="direct")


def test_training_only_keys_are_left_out_by_name_and_shards_are_read(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    expected = reason(made.load(), [QUESTION], max_new_tokens=2).thoughts
    extra = {"decoder.wte.weight": torch.ones(2), "pj_in.weight": torch.ones(2), "pj_out.bias": torch.ones(2)}
    state = {name: tensor.clone().contiguous() for name, tensor in (made.state | extra).items()}
    (made.folder / "pytorch_model.bin").unlink()
    (made.folder / "config.json").touch()
    names = sorted(state)
    for index, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: state[name] for name in part}, made.folder / f"model-{index:05}-of-00002.safetensors")
    reasoner = made.load()
    assert torch.equal(reason(reasoner, [QUESTION], max_new_tokens=2).thoughts, expected)
    assert described(reasoner)["left out"] == "1 decoder.*, 1 pj_in.*, 1 pj_out.*"
    with pytest.raises(CheckpointError, match=r"an empty config\.json; name the base model with --base"):
        load(made.folder)
    (made.folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-00002\.safetensors, expected 2 shards"):
        made.load()


@pytest.mark.parametrize("kind", ["no norm", "no projection"])
def test_a_projection_without_norm_or_none_at_all(kind, tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    begins = "prj." if kind == "no projection" else "prj.ln."
    made.save({name: tensor for name, tensor in made.state.items() if not name.startswith(begins)})
    prj = nn.Identity() if kind == "no projection" else made.module.prj[:4]
    lm, ids = made.module.codi.get_base_model(), tokenizer(QUESTION)["input_ids"]
    _, thoughts = oracle.think(lm, prj, ids, len(tokenizer) + 1, len(tokenizer) + 2, 6)
    reasoner = made.load()
    torch.testing.assert_close(reason(reasoner, [QUESTION], max_new_tokens=1).thoughts[0], thoughts, **TOLERANCE)
    said = "the last hidden state as it is" if kind == "no projection" else "without layer norm"
    assert said in sound(reasoner)["feedback"]


def test_an_output_layer_apart_in_the_marker_rows_alone_is_tied_again(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    expected = made.load().lm.lm_head.weight
    head = made.state["codi.base_model.model.lm_head.weight"].clone()
    head[-2] += 0.25
    made.save(made.state | {"codi.base_model.model.lm_head.weight": head})
    reasoner = made.load()
    assert torch.equal(reasoner.lm.lm_head.weight, expected)
    assert "differed by 0.25" in described(reasoner)["output layer"]


def test_what_nothing_says_is_an_assumption_and_is_named(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    said = assumptions(made.load().provenance)
    assert [sentence.split(" is ")[0] for sentence in said] == [
        "assumed: n_thoughts",
        "assumed: lora_alpha",
        "assumed: remove_eos",
    ]
    assert "the official class has 16 and its scripts pass 32" in said[1]
    assert "lora_alpha" not in " ".join(assumptions(made.load(alpha=32).provenance))
    assert assumptions(made.load(known_as="zen-E/CODI-gpt2").provenance) == []
    origins = made.load(known_as="zen-E/CODI-gpt2", alpha=16).provenance["settings"]
    assert (origins["lora_alpha"]["from"], origins["n_thoughts"]["from"]) == ("option", "table")


def test_a_latent_tts_folder_is_read_without_its_code(tmp_path, tokenizer):
    torch.manual_seed(0)
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    names = ["<|latent|>", "<|start-latent|>", "<|end-latent|>"]
    tokenizer.add_tokens(names)
    _, start, end = tokenizer.convert_tokens_to_ids(names)
    lm = base_model("gpt2", len(tokenizer)).eval()
    prj = nn.Sequential(
        nn.Dropout(0.1), nn.Linear(HIDDEN, 48), nn.GELU(), nn.Linear(48, HIDDEN), nn.LayerNorm(HIDDEN)
    ).eval()
    state = dict(lm.state_dict()) | {f"projector.{name}": tensor for name, tensor in prj.state_dict().items()}
    ids = tokenizer(QUESTION)["input_ids"]
    for folder, module in ((tmp_path / "codi", prj), (tmp_path / "coconut", nn.Identity())):
        folder.mkdir()
        tokenizer.save_pretrained(folder)
        kept = {name: t.clone() for name, t in state.items() if folder.name == "codi" or "projector" not in name}
        kept.pop("lm_head.weight")
        save_file(kept, folder / "model.safetensors")
        config = lm.config.to_dict() | {"architectures": [f"{folder.name.upper()}GPT2"], "model_type": "own"}
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
        reasoner = load(folder)
        asked = ids if folder.name == "codi" else tokenizer(QUESTION + "\n")["input_ids"]
        _, thoughts = oracle.think(lm, module, asked, start, end, 6)
        torch.testing.assert_close(reason(reasoner, [QUESTION], max_new_tokens=1).thoughts[0], thoughts, **TOLERANCE)
        assert "LatentTTS" in sound(reasoner)["family"]
    AutoTokenizer.from_pretrained(bundled()["tiny-gpt2"]).save_pretrained(folder)
    with pytest.raises(
        CheckpointError, match=r"has start-latent, .* tokens \[None, None, None\], expected the last th"
    ):
        load(folder)


# Coconut


class Coconut(nn.Module):
    """As Coconut's training saves it: the decoder under a name, its embedding once more."""

    def __init__(self, lm):
        super().__init__()
        self.base_causallm, self.embedding = lm, lm.get_input_embeddings()


@pytest.fixture
def coconut(tmp_path, tokenizer):
    torch.manual_seed(0)
    lm, v = base_model("gpt2", len(tokenizer) + 3).eval(), len(tokenizer)
    base, folder = tmp_path / "base", tmp_path / "checkpoint"
    base_model("gpt2", v).config.save_pretrained(base)
    tokenizer.save_pretrained(base)
    folder.mkdir()
    torch.save(Coconut(lm).state_dict(), folder / "checkpoint_28")
    return SimpleNamespace(lm=lm, base=base, folder=folder, v=v, ids=tokenizer(QUESTION + "\n")["input_ids"])


def test_coconut_feeds_the_hidden_state_back_as_it_is(coconut, tokenizer):
    reasoner = load(coconut.folder, base=coconut.base)
    sequence, thoughts = oracle.think(coconut.lm, nn.Identity(), coconut.ids, coconut.v, coconut.v + 1, 6)
    trace = reason(reasoner, [QUESTION], max_new_tokens=5)
    torch.testing.assert_close(trace.thoughts[0], thoughts, **TOLERANCE)
    assert trace.tokens[0] == oracle.greedy(coconut.lm, sequence, [], tokenizer.eos_token_id, 5)
    assert not isinstance(reasoner, Codi) and sound(reasoner)["family"] == "coconut, layout Coconut"
    recorder = recorder_for(reasoner, 1, 6)
    reason(reasoner, [QUESTION], taps=[recorder], max_new_tokens=1)
    expected = oracle.attention_rows(oracle.eager(coconut.lm), sequence, len(coconut.ids), 6, [0], 0)[:, :, :8, :10]
    torch.testing.assert_close(recorder.attention[0, :, :, :8, :10], expected, **TOLERANCE)
    assert load(coconut.folder, base=coconut.base, known_as="internlm/SIM_COT-GPT2-Coconut").n_thoughts == 10
    assert [s.split(" is ")[0] for s in assumptions(reasoner.provenance)] == ["assumed: n_thoughts"]


def test_controls_of_coconut_load_as_what_they_are(coconut, tokenizer):
    vector = torch.linspace(-1, 1, HIDDEN)
    torch.save(Coconut(coconut.lm).state_dict() | {"pause_embedding": vector[None]}, coconut.folder / "checkpoint_28")
    says(coconut.folder, family="coconut", feedback="pause", n_thoughts=3)
    reasoner = load(coconut.folder, base=coconut.base)
    assert torch.equal(reason(reasoner, [QUESTION], max_new_tokens=1).thoughts[0], vector.expand(3, -1))
    assert sound(reasoner)["feedback"] == "one learned vector"
    plain = base_model("gpt2", coconut.v).eval()
    torch.save(plain.state_dict(), coconut.folder / "checkpoint_28")
    (coconut.folder / "thoughtlens.json").unlink()
    reasoner = load(coconut.folder, base=coconut.base)
    embed = plain.get_input_embeddings()
    said = reason(reasoner, [QUESTION], max_new_tokens=5).tokens[0]
    assert said == oracle.greedy(plain, embed(torch.tensor([coconut.ids])), [], tokenizer.eos_token_id, 5)
    assert (reasoner.n_thoughts, sound(reasoner)["family"]) == (0, "plain, layout plain language model")


@pytest.mark.parametrize(
    ("facts", "more", "said"),
    [
        (
            {},
            {"latent.weight": 3},
            "unexpected key 'latent.weight'; expected only base_causallm.* and embedding.weight",
        ),
        ({"feedback": "pause"}, {}, f"has no pause vector of width {HIDDEN}, expected one; fetch it again"),
        ({"feedback": "pause"}, {"pause_embedding": 3}, f"has no pause vector of width {HIDDEN}, expected one"),
        ({"after": ["[A]"]}, {}, r"has no token '\[A\]', expected it around the thoughts of .*; pass the base model"),
    ],
    ids=str,
)
def test_a_coconut_that_lacks_what_it_is_said_to_have_is_refused(facts, more, said, coconut):
    vectors = {name: torch.zeros(width) for name, width in more.items()}
    torch.save(Coconut(coconut.lm).state_dict() | vectors, coconut.folder / "checkpoint_28")
    says(coconut.folder, family="coconut", **facts)
    with pytest.raises(CheckpointError, match=said):
        load(coconut.folder, base=coconut.base)


def test_without_markers_the_question_makes_the_first_thought(tmp_path):
    torch.manual_seed(0)
    tokenizer, lm = symbol_tokenizer(), base_model("gpt2", 40).eval()
    torch.save(Coconut(lm).state_dict(), tmp_path / "checkpoint_300")
    sizes = {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": HIDDEN, "n_positions": 128, "vocab_size": 40}
    words = {"suffix": "", "prefix": "", "after": ["[A]"], "markers": [], "tokenizer": "symbols", "n_thoughts": 3}
    says(tmp_path, family="coconut", config=sizes | {"bos_token_id": 38, "eos_token_id": 38}, **words)
    graph = "<eos> 3 7 | 7 2 | 3 5 | [Q] 2 5 [R] 3"
    reasoner = load(tmp_path)
    embed = lm.get_input_embeddings()
    ids = tokenizer(graph)["input_ids"]
    sequence = embed(torch.tensor([ids]))
    for _ in range(3):
        last = lm.base_model(inputs_embeds=sequence).last_hidden_state[:, -1:]
        sequence = torch.cat([sequence, last], dim=1)
    whole = torch.cat([sequence, embed(torch.tensor([[37]]))], dim=1)
    trace = reason(reasoner, [graph, "<eos> 1 2 | [Q] 1 2 [R] 1"], max_new_tokens=1)
    torch.testing.assert_close(trace.thoughts[0], sequence[0, -3:], **TOLERANCE)
    assert trace.tokens[0] == [int(lm(inputs_embeds=whole).logits[0, -1].argmax())]
    sound(reasoner)
    run = extract(reasoner, [Problem("g", graph, "2")], tmp_path / "run", dtype="float32", max_new_tokens=2)
    assert run.attention["query"].values.tolist() == ["z1", "z2", "z3", "answer"]
    pattern = oracle.eager(lm).base_model(inputs_embeds=whole, output_attentions=True).attentions[1][0, :, -1]
    row = torch.tensor(run.attention["attention"].sel(problem="g", layer=1, query="answer").values)
    n = len(ids)
    expected = torch.cat([pattern[:, :1], pattern[:, 1:n].sum(-1, keepdim=True), pattern[:, n:]], dim=-1)
    torch.testing.assert_close(row, expected.detach(), **TOLERANCE)


# Damaged and foreign folders


def test_families_that_cannot_be_loaded_are_refused_by_name(tmp_path):
    for name, of in known_checkpoints().items():
        if "refused" in of:
            with pytest.raises(CheckpointError, match=of["refused"][:20]):
                load(name)
    for file, content, said in (
        ("config.json", {"model_type": "huginn_raven"}, "Huginn recurs in depth"),
        ("config.json", {"architectures": ["OuroForCausalLM"]}, "Ouro loops over its layers"),
        ("pccot_arguments.json", {}, "PCCoT computes its thoughts by Jacobi iterations"),
    ):
        (tmp_path / file).write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=said):
            load(tmp_path)
        (tmp_path / file).unlink()


def test_what_is_no_checkpoint_is_said_in_one_sentence(tmp_path, tokenizer, coconut):
    adapter = {"base_model.model.h.0.attn.c_attn.lora_A.weight": torch.ones(2, 2)}
    (tmp_path / "adapter").mkdir()
    save_file(adapter, tmp_path / "adapter" / "adapter_model.safetensors")
    cases = [(tmp_path / "adapter", "LoRA weights without the base they adapt")]
    (coconut.folder / "checkpoint_30").write_bytes(b"")
    cases.append((coconut.folder, "holds 2 checkpoints"))
    for folder, said in cases:
        with pytest.raises(CheckpointError, match=said) as caught:
            load(folder, base=coconut.base)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no known checkpoint 'nobody/nothing'"):
        load(coconut.folder, base=coconut.base, known_as="nobody/nothing")


def test_a_family_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    says(tmp_path, family="shifted", by=2)

    def load_shifted(folder, *, settings, dtype, device):
        assert (folder, settings["by"], dtype) == (tmp_path, 2, torch.float32)
        return load("tiny-gpt2", device=str(device))

    found = SimpleNamespace(load=lambda: load_shifted)
    monkeypatch.setattr(
        "thoughtlens.models.loader.entry_points", lambda **asked: [found] if asked["name"] == "shifted" else []
    )
    assert load(tmp_path).provenance["name"] == "tiny-gpt2"
    says(tmp_path, family="unknown")
    with pytest.raises(
        CheckpointError, match=r"is of the family 'unknown', expected coconut, codi, compiled, plain, planted"
    ):
        load(tmp_path)


def test_the_family_of_the_how_to_page_is_sound(tmp_path, tokenizer, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    torch.manual_seed(0)
    lm, vector = base_model("gpt2", len(tokenizer) + 2).eval(), torch.linspace(-1, 1, HIDDEN)
    lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    save_file({"vector": vector}, tmp_path / "blend.safetensors")
    says(tmp_path, family="blended", n_thoughts=4)
    # A dataclass looks its module up by name.
    module = ModuleType("blended")
    monkeypatch.setitem(sys.modules, "blended", module)
    exec(compile(code, "docs/checkpoints.md", "exec"), module.__dict__)
    offered = {"blended": [SimpleNamespace(load=lambda: module.load)]}
    monkeypatch.setattr("thoughtlens.models.loader.entry_points", lambda group, name: offered.get(name, []))
    reasoner, v = load(tmp_path), len(tokenizer)
    ids = tokenizer(QUESTION + "\n")["input_ids"]
    _, thoughts = oracle.think(lm, lambda hidden: (hidden + vector) / 2, ids, v, v + 1, 4)
    torch.testing.assert_close(reason(reasoner, [QUESTION], max_new_tokens=1).thoughts[0], thoughts, **TOLERANCE)
    assert sound(reasoner)["family"] == "blended, layout blended"
