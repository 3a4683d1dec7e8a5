"""A weights file becomes a dict of tensors, read safely: no code runs, and nothing grows beyond the file's own size."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from thoughtlens.errors import CheckpointError

WEIGHT_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Names looked for in a model folder, the first one first."""


def find_weights(folder: Path) -> Path:
    """The weights file of a model folder.

    Raises:
        CheckpointError: there is none.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}; pass the folder of a CODI checkpoint.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` or `.bin` file onto the CPU.

    Raises:
        CheckpointError: the file is damaged, would run code, or holds more than its size allows.
    """
    state: dict[str, Tensor] = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds {name!r}, which is no tensor; save the module's state_dict alone.")
    return state


def digest(*modules: nn.Module) -> str:
    """SHA-256 of the weights of modules on the CPU, by name: what a model without a file is known by."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors ({error}); fetch it again.") from error
    return state


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        state = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code or holds more than tensors, and was not loaded; save its state_dict instead."
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise CheckpointError(
            f"{path} can't be read as a PyTorch file ({_first_line(error)}); fetch it again."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, expected a state_dict; save the state_dict alone."
        )
    for name, tensor in state.items():
        _check_size(path, name, tensor)
    return dict(state)


def _check_archive(path: Path) -> None:
    """Refuse compressed members, which may grow a thousandfold, before torch reads them."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a PyTorch archive; save it with torch 1.6 or later, or as safetensors.")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} holds compressed data, which torch never writes; it was not loaded.")


def _check_size(path: Path, name: object, tensor: object) -> None:
    """Refuse a view that repeats its storage: 1.5 kB may claim terabytes."""
    if isinstance(tensor, Tensor) and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path} holds {name!r} of shape {tuple(tensor.shape)} but not its data; it was not loaded."
        )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
