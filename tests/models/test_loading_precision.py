"""What precision `auto` stands for on which device, without the device."""

import pytest
import torch

from thoughtlens.errors import CheckpointError
from thoughtlens.models import DTYPES, load, precision


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "expected"),
    [("cpu", True, "float32"), ("cuda", True, "bfloat16"), ("cuda:1", False, "float16")],
)
def test_auto_is_half_precision_on_cuda_alone(device, has_bfloat16, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    assert precision("auto", torch.device(device)) == expected
    assert [precision(name, torch.device(device)) for name in DTYPES] == list(DTYPES)


def test_an_unknown_precision_is_refused_by_name():
    with pytest.raises(CheckpointError, match="no precision 'float8'; use auto or one of float32"):
        load("tiny-gpt2", dtype="float8")
    with pytest.raises(CheckpointError, match="no precision 'float8'; use auto or one of float32"):
        precision("float8", torch.device("cpu"))


def test_a_loaded_model_says_the_precision_it_got_and_leaves_tf32_off():
    reasoner = load("tiny-gpt2", device="cpu")
    assert reasoner.provenance["dtype"] == "float32"
    assert reasoner.lm.dtype == torch.float32
    assert torch.get_float32_matmul_precision() == "highest"
