"""What the benchmarks compare is the same work, and what they count is what PyTorch counts."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from benchmarks import shapes
from benchmarks.cost import Device, Study, batch_seconds, operations, shape_of
from benchmarks.measuring import Setting, measure
from benchmarks.methods import ThoughtsAlone
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import GPT2Config, LlamaConfig

from thoughtlens.reasoning import reason

SCRIPTS = sorted(path.stem for path in Path(shapes.__file__).parent.glob("[a-z]*.py"))

SMALL = {
    "gpt2": lambda: GPT2Config(vocab_size=103, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "llama": lambda: LlamaConfig(
        vocab_size=103,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    ),
}


FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def counter() -> FlopCounterMode:
    """PyTorch's counter, which knows fused attention on GPUs alone: on the processor it has the same formula."""

    def fused(query, key, value, *args, **options) -> int:
        return sdpa_flop_count(query, key, value)

    return FlopCounterMode(display=False, custom_mapping={FUSED: fused})


@pytest.fixture(params=list(SMALL))
def small(request, monkeypatch):
    """A benchmark's reasoner in small."""
    monkeypatch.setattr(shapes, "CONFIGS", SMALL)
    return shapes.reasoner_of(request.param)


@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmarks_keep_up_with_the_code(name):
    if name == "workers":
        pytest.importorskip("ray")
    import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("small", ["gpt2", pytest.param("llama", marks=pytest.mark.nightly)], indirect=True)
@pytest.mark.filterwarnings("ignore")  # peft and transformers, on adapters and attentions
def test_every_method_records_the_same_attention(small):
    found = measure(small, Setting(batch_size=2, n_problems=3, n_thoughts=3, n_tokens=5, rounds=2))
    assert set(found.seconds) >= {"2025", "transformers", "uncaptured", "ours", "products"}
    assert found.worst < 3e-4  # the 2025 method keeps float16
    assert found.operations["ours"][0] > found.operations["question"][0]


@pytest.mark.parametrize("n_answer", [0, 3])
def test_the_cost_model_counts_what_pytorch_counts(small, n_answer):
    loaded = {name: getattr(small, name) for name in small.__dataclass_fields__} | {"lm": shapes.as_loaded(small.lm)}
    reasoner, study = type(small)(**loaded), Study(n_thoughts=3, n_answer=n_answer)
    with counter() as counted:
        trace = reason(reasoner, ["5 6 7 8", "9 10 11 12"], n_thoughts=3, max_new_tokens=n_answer)
    # With no end token said, the last token's successor is not chosen.
    assert [len(ids) for ids in trace.tokens] == [n_answer] * 2
    shape = shape_of(small.lm.config)
    expected = operations(shape, study, n_tokens=4) - (shape.choosing() if n_answer else 0)
    assert counted.get_total_flops() == pytest.approx(2 * expected, rel=1e-3)


def test_thoughts_alone_take_one_pass_less(small):
    parts = {name: getattr(small, name) for name in small.__dataclass_fields__} | {"lm": shapes.as_loaded(small.lm)}
    shape = shape_of(small.lm.config)
    counts = []
    for reasoner in (ThoughtsAlone(**parts), type(small)(**parts)):
        with counter() as counted:
            reason(reasoner, ["5 6 7 8"], n_thoughts=3, max_new_tokens=0)
        counts.append(counted.get_total_flops())
    assert counts[1] - counts[0] == pytest.approx(shape.reading(1, 9), rel=1e-3)


def test_a_pass_takes_the_longest_of_computing_moving_and_starting():
    with torch.device("meta"):
        shape = shape_of(SMALL["gpt2"]())
    study = Study(n_thoughts=0, n_answer=0, n_closing=0)
    slow = {"of_flops": 1.0, "of_bandwidth": 1.0, "start": 0.0}
    computing = batch_seconds(shape, study, Device(1.0, 1e30, **slow), 2, 5)
    moving = batch_seconds(shape, study, Device(1e30, 1.0, **slow), 2, 5)
    starting = batch_seconds(shape, study, Device(1e30, 1e30, **slow | {"start": 1.0}), 2, 5)
    linear = 2 * 12 * 32**2
    assert shape.linear == linear
    assert computing == 2 * (5 * 2 * linear + 2 * linear + 4 * 2 * 32 * (5 * 5 + 6))
    assert moving == 2 * (2 * linear + 2 * 2 * 2 * 32 * 6)
    assert starting == 2 * 2.0
