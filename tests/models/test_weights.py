"""Files that would run code or grow are refused before they do."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from thoughtlens.errors import CheckpointError
from thoughtlens.models import find_weights, read_weights


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_plain_state_is_read(tmp_path):
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    read = read_weights(*find_weights(tmp_path))
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(zipped, tmp_path):
    path, canary = tmp_path / "pytorch_model.bin", tmp_path / "canary"
    torch.save({"codi.x": Runs(canary)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"was not loaded|is not a PyTorch archive"):
        read_weights(path)
    assert not canary.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    path, canary = tmp_path / "pytorch_model.bin", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Runs(canary)))
    with pytest.raises(CheckpointError):
        read_weights(path)
    assert not canary.exists()


def test_a_view_of_more_than_its_storage_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"codi.x": torch.zeros(1).expand(10**12)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="not its data"):
        read_weights(path)


def test_compressed_data_is_refused(tmp_path):
    plain, path = tmp_path / "plain.bin", tmp_path / "pytorch_model.bin"
    torch.save({"codi.x": torch.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(CheckpointError, match="compressed"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_damaged_files_end_in_one_sentence(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_archive_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"codi.x": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError):
        read_weights(path)


def test_something_else_than_tensors_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="'epoch', which is no tensor"):
        read_weights(path)


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds neither"):
        find_weights(tmp_path)


def test_torn_safetensors_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"codi.x": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="safetensors"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("list", "holds a list, expected a state_dict"),
        ("zip", r"can't be read as a PyTorch file \(.*\); fetch it again"),
    ],
)
def test_an_archive_without_a_state_is_refused(content, words, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    if content == "list":
        torch.save([torch.zeros(2)], path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("photo.txt", "no tensor")
    with pytest.raises(CheckpointError, match=words):
        read_weights(path)
