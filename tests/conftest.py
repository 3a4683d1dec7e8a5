"""Tiny reasoners with random weights, on both architectures."""

import gc
import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from thoughtlens.models import Codi, Markers, bundled, projection
from thoughtlens.reasoning import decode
from thoughtlens.taps import ATTENTION

torch.set_num_threads(1)  # tiny models: threads only wait for each other

# A loaded machine is slow to draw examples too: no test may depend on the clock.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = ["tests.attention_made"]


def pytest_collection_finish() -> None:
    """Trainers collect garbage at each call: what is imported by now stays, and need not be looked through.

    The rest is looked through seldom: that it is at every 700 objects takes a hundredth of all time.
    """
    gc.freeze()
    gc.set_threshold(10_000)


# Scripts, which have no examples to test and import more than a run of some tests needs.
collect_ignore = [
    "architecture.py",
    "golden.py",
    "runs/killed_run.py",
    "runs/on_a_cluster.py",
    "training/train_apart.py",
]

QUESTIONS = [
    "Tom has 5 apples. He buys 3 more. How many apples does he have?",
    "How many?",
    "Eva has 12 books. She finds 3 more. She wins 1 more. She loses 9. How many books does she have now, all in all?",
    "Ann has 2 bags of 4 pens. She doubles them. How many pens does she have?",
]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Published problem sets, as their authors publish them."""
    beside_the_repository = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("THOUGHTLENS_DATA", beside_the_repository))
    if not folder.is_dir():
        pytest.skip("the published problem sets are not on this machine; set THOUGHTLENS_DATA to their folder")
    return folder


FIRST = "thoughtlens run --n 24 --out runs/first"
"""The run that several pages of the documentation begin with."""

LOOKED_AT = ("head_maps", "layer_means", "row_composition", "hub_profile")
"""Figures of it that are rendered."""


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> Path:
    """That run, made once for all processes of the tests: to be copied, not changed; beside it, what was said of it."""
    import thoughtlens as tl
    from tests.commands import call, unrendered
    from thoughtlens.plots import save_figure

    def save(figure, path_stem, **about):
        with unrendered("pdf") if Path(path_stem).name in LOOKED_AT else unrendered("png", "svg", "pdf"):
            return save_figure(figure, path_stem, **about)

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "first_run"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "said.json").exists():
            folder.mkdir(exist_ok=True)
            patch.setattr(tl.plots, "save_figure", save)
            how = FIRST.removesuffix("runs/first").split()[1:]
            said = call(*how, folder / "runs" / "first", "--json", rendered=True).stdout
            (folder / "said.json").write_text(said, "utf-8")
    return folder / "runs" / "first"


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled()["tiny-gpt2"])


def random_gpt2(n_embeddings: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    config = GPT2Config(vocab_size=n_embeddings, n_positions=256, n_embd=32, n_layer=3, n_head=4, initializer_range=0.1)
    config._attn_implementation = ATTENTION
    return GPT2LMHeadModel(config).to(dtype).eval()


def random_llama(n_embeddings: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=n_embeddings,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    config._attn_implementation = ATTENTION
    return LlamaForCausalLM(config).to(dtype).eval()


FAMILIES = {"gpt2": random_gpt2, "llama": random_llama}


def usually(*usual, of=FAMILIES):
    """Parameters of a test: these cases are of the usual suite, others of the same are left to the nightly tests."""
    return [pytest.param(case, marks=[] if case in usual else pytest.mark.nightly) for case in of]


def random_reasoner(family: str, tokenizer, dtype: torch.dtype = torch.float32, n_thoughts: int = 6) -> Codi:
    torch.manual_seed(0)
    markers = Markers(len(tokenizer))
    lm = FAMILIES[family](markers.n_embeddings, dtype)
    return Codi(lm, projection(32, 48).to(dtype).eval(), tokenizer, markers, n_thoughts)


# LLaMA shares keys and values among heads and turns positions; the models of other tests are mostly GPT-2. Where the
# usual suite needs both families, tests name them.
@pytest.fixture(params=usually("llama"))
def reasoner(request, tokenizer) -> Codi:
    return random_reasoner(request.param, tokenizer)


SHORT = 6
"""Tokens of an answer where `short_texts` is in use."""


@pytest.fixture(scope="module")
def short_texts():
    """Untrained models that are cut babble to the last position; six tokens of it are enough."""

    def shorter(batch, state, rooms):
        return decode(batch, state, [min(room, SHORT) for room in rooms])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thoughtlens.cuts.passes.decode", shorter)
        yield


class Scripted:
    """A reasoner that says what it is told to, whatever its weights would say; everything else is the model's own."""

    def __init__(self, reasoner: Codi, texts: list[str]) -> None:
        self.reasoner = reasoner
        end = reasoner.tokenizer.eos_token_id
        self.scripts = [[*reasoner.tokenizer(text)["input_ids"], end] for text in texts]
        self.said = 0

    def __getattr__(self, name: str):
        return getattr(self.reasoner, name)

    def next_token(self, hidden: torch.Tensor) -> torch.Tensor:
        if len(hidden) < len(self.scripts):  # who had said all has left the batch
            self.scripts = [script for script in self.scripts if len(script) > self.said]
        said = [script[min(self.said, len(script) - 1)] for script in self.scripts]
        self.said += 1
        return torch.tensor(said)
