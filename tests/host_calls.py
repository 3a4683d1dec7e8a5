"""A watch for calls by which work on a device would have to wait for the host, or the host for the device.

On a CPU nothing waits, but the calls are the same. PyTorch's operators, which a dispatch mode sees, show `item` and
`nonzero` alone; `tolist`, `cpu`, `numpy` and copies to the host are seen where Python calls them, by a function mode.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OPERATORS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select"}
METHODS = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__"}


class HostCall(Exception):
    """A step asks the host."""


class _Operators(TorchDispatchMode):
    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in OPERATORS:
            self.found(func._schema.name)
        # A mask as an index is looked up by `nonzero`, inside of the operator.
        if func._schema.name.startswith("aten::index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        ):
            self.found("index by a mask, which is nonzero")
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in METHODS or (name == "to" and _to_host(args, kwargs or {}) and _called_here()):
            self.found(name)
        return func(*args, **(kwargs or {}))


def _to_host(args, kwargs) -> bool:
    named = [*args[1:], *kwargs.values()]
    return any(str(its) == "cpu" for its in named if isinstance(its, str | torch.device))


def _called_here() -> bool:
    """Whether this package calls: on a CPU, what others copy to the device of their tensors goes to the host, too."""
    frame = sys._getframe(2)
    while frame is not None and "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and "/transformers/" not in frame.f_code.co_filename


@contextmanager
def no_host_calls(found: Callable[[str], None] | None = None) -> Iterator[None]:
    """Raise `HostCall` where the host is asked, or tell `found` what was called."""

    def refuse(name: str) -> None:
        raise HostCall(f"a step calls {name}")

    tell = found or refuse
    with _Functions(tell), _Operators(tell):
        yield
