import os

import pytest
from filelock import FileLock
from transformers import AutoTokenizer

from thoughtlens.models import bundled
from thoughtlens.problems import LIMIT
from thoughtlens.training import END, build_tokenizer


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The tokenizer, built once for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built_tokenizer"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build_tokenizer(768).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_building_it_again_gives_the_bundled_one(built, tokenizer):
    """The bundled model's was built once, elsewhere, from the same recipe."""
    assert (bundled()["tiny-gpt2"] / "recipe.toml").read_text("utf-8").count("vocabulary = 768") == 1
    assert built.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize(
    "text", ["Tom has 5 apples.", "<<12-5=7>> <<7*3=21>> The answer is: 21", " ½ «naïve» 漢字\t\n 007 "]
)
def test_any_text_decodes_to_itself(text, built):
    assert built.decode(built(text)["input_ids"]) == text


def test_every_value_is_one_token_wherever_it_stands(built):
    for value in range(LIMIT + 1):
        (alone,) = built(str(value))["input_ids"]
        for text in (f"Tom has {value} pens.", f"<<1+{value}={value}>>", f"The answer is: {value}"):
            assert alone in built(text)["input_ids"]


def test_end_is_a_token_of_its_own(built):
    assert built.eos_token == END
    assert built.eos_token_id < len(built)
