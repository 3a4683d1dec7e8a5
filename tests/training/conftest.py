"""Bases of two layers with random weights, recipes that train them, and tokenizers of both habits."""

import json

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from thoughtlens.problems import arithmetic_problem
from thoughtlens.training import read_recipe

HIDDEN = 16
FAMILIES = ("gpt2", "llama")


def tiny_lm(family: str, n_embeddings: int):
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=n_embeddings, n_positions=104, n_embd=HIDDEN, n_layer=2, n_head=2, initializer_range=0.3,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    config = LlamaConfig(
        vocab_size=n_embeddings, hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=104, initializer_range=0.1, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save_base(family: str, tokenizer, folder):
    torch.manual_seed(1)
    tiny_lm(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bases(tokenizer, tmp_path_factory):
    """Folder of each family's base."""
    root = tmp_path_factory.mktemp("bases")
    return {family: save_base(family, tokenizer, root / family) for family in FAMILIES}


@pytest.fixture
def problems():
    counts = {2: 1.0, 3: 1.0, 4: 1.0}
    return [arithmetic_problem(index, split="train", seed=3, n_steps=counts) for index in range(5)]


@pytest.fixture
def problem_file(tmp_path):
    """A problem set with the columns of GSM8k-Aug, written by hand."""
    rows = [
        ("Janet has 16 eggs. She eats 3 and 4. The rest cost 2. How much?", "<<16-3-4=9>> <<9*2=18>>", "18"),
        ("A robe takes 2 bolts and half of it. How many?", "<<2/2=1>> <<2+1=3>>", "3"),
        ("How far below zero?", "<<2-7=-5>>", "-5"),
        ("Which way?", "<<1+1=2>>", "north"),
        ("Tom has 5. He gets 2. How many?", "<<5+2=7>>", "7"),
    ]  # fmt: skip
    columns = ("question", "cot", "answer")
    path = tmp_path / "aug.jsonl"
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return path


STAGE = "weights = { teacher = 1.0, student = 1.0, distillation = 1.0 }"


def write_recipe(
    path, base, *, top="", tables="", stages=(f'name = "codi"\nsteps = 4\nbatch = 4\nrate = 1e-2\n{STAGE}',)
):
    text = f'name = "tiny"\nthoughts = 3\n{top}\n[base]\npretrained = "{base}"\n{tables}\n'
    path.write_text(text + "".join(f"[[stages]]\n{stage}\n" for stage in stages))
    return read_recipe(path)


LLAMA_PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def words(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer that takes the blank before a number into its token (gpt2), or leaves it alone (llama)."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA_PIECES), "isolated")
    if kind == "llama":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([f"The answer is: {n} <<{n}+{n}={2 * n}>>" for n in range(100)] * 20, trainer)
    if kind == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
