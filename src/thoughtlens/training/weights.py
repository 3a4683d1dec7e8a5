"""The state dict of a module with tied weights, as safetensors wants it, in a file that is whole or not there."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from thoughtlens.files import PARTIAL


def untied(module: nn.Module) -> dict[str, Tensor]:
    """State dict whose tensors share no memory; tied weights appear under both names, as in official checkpoints."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights; a kill leaves the old file or none."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    save_file(untied(module), partial, metadata={"format": "pt"})
    partial.replace(path)
