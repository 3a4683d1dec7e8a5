"""Files of weights: found in a model's folder, and read without running code or taking more memory than their size.

In: a folder; out: tensors by name. A folder holds one file, shards that together are one (`…-00001-of-00004.…`), or a
raw state dict as Coconut's training saves it (`checkpoint_28`).
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from thoughtlens.errors import CheckpointError, first_line

WEIGHT_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""The weights files that a model folder may have; the first one that it has is read."""
_SHARD = re.compile(r"(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|bin)")
_ADAPTERS: Final = ("adapter_model.safetensors", "adapter_model.bin")
_RAW = re.compile(r"checkpoint_(?:\d+|best|final)")
MOST_NAMES: Final = 4
"""Names of one stored tensor, in all: ties give a weight two."""


def find_weights(folder: Path, named: str | None = None) -> tuple[Path, ...]:
    """Find the weights of a model folder.

    Args:
        folder: the folder.
        named: the file, where it is known.

    Returns:
        Its `model.safetensors`, else its `pytorch_model.bin`, else all its shards in order, else its one raw
        `checkpoint_N`.

    Raises:
        CheckpointError: there are none, a shard is missing, or there are several raw checkpoints.

    Example:
        >>> from thoughtlens.models import bundled
        >>> [path.name for path in find_weights(bundled()["tiny-gpt2"])]
        ['model.safetensors']
    """
    for name in (named,) if named else WEIGHT_FILES:
        if (folder / name).is_file():
            return (folder / name,)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    shards = [found for name in names if (found := _SHARD.fullmatch(name))]
    if shards:
        return _shards(folder, shards)
    raw = [name for name in names if _RAW.fullmatch(name)]
    if len(raw) > 1:
        raise CheckpointError(
            f"{folder} holds {len(raw)} checkpoints ({', '.join(raw)}), expected one; keep one there."
        )
    if raw:
        return (folder / raw[0],)
    for name in _ADAPTERS:
        if (folder / name).is_file():
            return (folder / name,)
    raise CheckpointError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}; pass the folder of a CODI checkpoint.")


def is_raw(path: Path) -> bool:
    """Whether a file has the name of a raw state dict of Coconut's training."""
    return _RAW.fullmatch(path.name) is not None


def _shards(folder: Path, shards: Sequence[re.Match[str]]) -> tuple[Path, ...]:
    count, ending = int(shards[0]["count"]), Path(shards[0].string).suffix
    of_kind = [shard for shard in shards if Path(shard.string).suffix == ending]
    there = {int(shard["index"]) for shard in of_kind}
    if lacking := sorted(set(range(1, count + 1)) - there):
        missing = f"{shards[0]['name']}-{lacking[0]:05}-of-{count:05}{ending}"
        raise CheckpointError(f"{folder} lacks {missing}, expected {count} shards; fetch the checkpoint again.")
    return tuple(folder / shard.string for shard in of_kind)


def read_weights(*paths: Path) -> dict[str, Tensor]:
    """Read weights files onto the CPU, safely.

    Args:
        paths: a `.safetensors` file or one of PyTorch, or the shards of a checkpoint.

    Returns:
        Their tensors by name.

    Raises:
        CheckpointError: a file is damaged, would run code, or holds more than its size or the memory allows.

    Example:
        >>> from thoughtlens.models import bundled
        >>> tuple(read_weights(bundled()["tiny-gpt2"] / "model.safetensors")["prj.ln.weight"].shape)
        (64,)
    """
    state: dict[str, Tensor] = {}
    needed, free = sum(path.stat().st_size for path in paths if path.is_file()), free_memory(torch.device("cpu"))
    if needed > free:
        raise CheckpointError(
            f"{paths[0]} needs {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} are free; use a machine with "
            "more, or a smaller checkpoint."
        )
    for path in paths:
        state |= _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise CheckpointError(f"{path} holds {name!r}, which is no tensor; save the module's state_dict alone.")
    return state


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, those among them that PyTorch keeps for later."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + int(kept)


def digest(*modules: nn.Module) -> str:
    """SHA-256 of the weights of modules on the CPU, by name; identifies a model that has no weights file."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors ({first_line(error)}); fetch it again.") from error
    return state


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        state = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code or holds more than tensors, and was not loaded; save its state_dict instead."
        ) from error
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise nearly anything
        raise CheckpointError(
            f"{path} can't be read as a PyTorch file ({first_line(error)}); fetch it again."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, expected a state_dict; save the state_dict alone."
        )
    for name, tensor in state.items():
        _check_size(path, name, tensor)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values() if isinstance(tensor, Tensor))
    if size > MOST_NAMES * path.stat().st_size:
        raise CheckpointError(
            f"{path} gives {size:,} bytes of weights but stores {path.stat().st_size:,}, one under many names; it was "
            "not loaded."
        )
    return dict(state)


def _check_archive(path: Path) -> None:
    """Refuse compressed members before torch reads them: they may grow a thousandfold."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is not a PyTorch archive; save it with torch 1.6 or later, or as safetensors."
        ) from error
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} holds compressed data, which torch never writes; it was not loaded.")


def _check_size(path: Path, name: object, tensor: object) -> None:
    """Refuse a tensor that repeats its storage: a file of 1.5 kB may claim terabytes."""
    if isinstance(tensor, Tensor) and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path} holds {name!r} of shape {tuple(tensor.shape)} but not its data; it was not loaded."
        )
