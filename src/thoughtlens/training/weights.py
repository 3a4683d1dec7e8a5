"""The state dict of a module with tied weights, as safetensors wants it."""

from torch import Tensor, nn


def untied(module: nn.Module) -> dict[str, Tensor]:
    """State dict whose tensors share no memory; tied weights appear under both names, as in official checkpoints."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
