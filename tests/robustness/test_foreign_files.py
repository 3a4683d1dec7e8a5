"""What others' files may hold: each damage or bomb ends in one sentence that names the file, before memory is taken."""

import datetime
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

import thoughtlens as tl
from thoughtlens.cuts import plan_cuts
from thoughtlens.errors import CheckpointError, OptionError, ProblemSetError, RecipeError, ThoughtLensError
from thoughtlens.models import bundled, read_weights
from thoughtlens.problems import read_rows
from thoughtlens.training import read_recipe

DEEP = "[" * 100_000


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in members.items():
            made.writestr(f"archive/{name.replace('_', '.')}", data)
    return file.getvalue()


def saved(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


ONE = torch.zeros(100)

WEIGHTS = {
    "text": (b"not weights", "is not a PyTorch archive"),
    "a zip's end without a zip": (b"PK\x05\x06" + bytes(18) + b"x", "can't be read as a PyTorch file|is not a PyTorch"),
    "half an archive": (archive(data_pkl=pickle.dumps({}))[:-30], "is not a PyTorch archive"),
    "no pickle in it": (archive(data_txt=b"hello"), "can't be read as a PyTorch file"),
    "text for a pickle": (archive(data_pkl=b"\xff\xfehello", version=b"3"), "asks to run code|can't be read as"),
    "code": (archive(data_pkl=pickle.dumps(print, 2), version=b"3"), "asks to run code or holds more than tensors"),
    "a list": (saved([1]), "holds a list, expected a state_dict"),
    "one tensor under 2,000 names": (saved({f"w{k}": ONE for k in range(2000)}), r"gives 800,000 bytes .* stores"),
    "a view that repeats its data": (saved({"w": torch.zeros(1).expand(10**9)}), "but not its data"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_damaged_and_swollen_torch_files_are_refused(tmp_path, kind):
    path, (data, said) = tmp_path / "pytorch_model.bin", WEIGHTS[kind]
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=said) as found:
        read_weights(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_larger_than_memory_is_refused_before_it_is_read(tmp_path):
    path, size = tmp_path / "model.safetensors", 1 << 43
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    try:
        os.truncate(path, 8 + len(header) + size)
    except OSError:
        pytest.skip("the file system has no files of 8 TiB")
    with pytest.raises(CheckpointError, match=r"model.safetensors needs 8,192.0 GiB of memory, .* are free"):
        read_weights(path)


FOLDERS = {
    "a number of layers in words": ("config.json", '{"model_type": "gpt2", "n_layer": "many"}', "is no configuration"),
    "a list for a size": ("config.json", '{"model_type": "gpt2", "n_embd": [64]}', "is no configuration"),
    "endless nesting": ("config.json", '{"model_type": ' + DEEP, "is no configuration"),
    "a tokenizer of another kind": (
        "tokenizer.json",
        '{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}',
        "tokenizer",
    ),
    "half a tokenizer": ("tokenizer.json", '{"version": "1.0", "model": ', "tokenizer"),
    "nested settings": ("thoughtlens.json", DEEP, "thoughtlens.json is no JSON object"),
    "a number of 5,000 digits": ("thoughtlens.json", '{"n_thoughts": ' + "9" * 5000 + "}", "is no JSON object"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_damaged_folders_of_models_are_refused(tmp_path, kind):
    name, text, said = FOLDERS[kind]
    folder = Path(shutil.copytree(bundled()["tiny-gpt2"], tmp_path / "model"))
    (folder / name).write_text(text)
    with pytest.raises(ThoughtLensError, match=said) as found:
        tl.load(str(folder))
    assert str(folder) in str(found.value)
    assert "\n" not in str(found.value)


def test_thin_factors_of_a_huge_product_are_refused_unmultiplied(tmp_path, monkeypatch):
    from thoughtlens.models.checkpoint_weights import Sorted, merged

    found = Sorted("codi", {"h.0.attn.weight": torch.zeros(4, 4)})
    found.lora[("h.0.attn", "A")], found.lora[("h.0.attn", "B")] = torch.zeros(1, 1 << 20), torch.zeros(1 << 20, 1)
    with pytest.raises(
        CheckpointError, match=r"LoRA for h.0.attn of shape \(1048576, 1048576\), the layer is \(4, 4\)"
    ):
        merged(found, alpha=1.0, transposed=False, where="here")


def parquet(path: Path, table: object) -> Path:
    pyarrow.parquet.write_table(table, path)
    return path


def test_parquet_of_too_many_rows_or_too_much_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("thoughtlens.problems.rows.MOST_ROWS", 1000)
    monkeypatch.setattr("thoughtlens.problems.rows.LARGEST_FILE", 100_000)
    rows = pyarrow.table({"question": ["1+1?"] * 2000, "answer": ["2"] * 2000})
    texts = pyarrow.table({"question": ["x" * 1000] * 200, "answer": ["2"] * 200})
    for table in (rows, texts):
        with pytest.raises(ProblemSetError, match=r"bomb.parquet holds more than 1,000 rows or 100,000 characters"):
            read_rows(parquet(tmp_path / "bomb.parquet", table))


def test_a_date_beyond_the_calendar_is_refused(tmp_path):
    beyond = pyarrow.array([2**40], pyarrow.timestamp("s"))
    path = parquet(tmp_path / "dates.parquet", pyarrow.table({"question": ["1+1?"], "answer": beyond}))
    with pytest.raises(ProblemSetError, match=r"dates.parquet is not readable as Parquet"):
        read_rows(path)
    assert datetime.date.max.year == 9999


def test_a_line_ends_at_a_newline_alone(tmp_path):
    path = tmp_path / "lines.jsonl"
    question = "one\u2028two\u0085three"
    path.write_text(json.dumps({"question": question, "answer": "2"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row.fields["question"] for row in read_rows(path)] == [question]


@pytest.mark.parametrize("text", [DEEP, '[{"parts": ' + "9" * 5000 + "}]", '{"cuts": 3}', "[3]", '[{"parts": [3]}]'])
def test_plans_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    run = tl.extract(tl.load("planted"), tl.models.planted_problems(1), tmp_path / "run")
    with pytest.raises(OptionError, match=r"plan.json can't be read as a plan"):
        plan_cuts(run, file=path)


@pytest.mark.parametrize("text", ["a = " + DEEP, "a = 1979-05-27", "thoughts = " + "9" * 5000, "\x00"])
def test_recipes_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as found:
        read_recipe(path)
    assert "recipe.toml" in str(found.value)
