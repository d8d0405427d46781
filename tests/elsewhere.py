"""A second device for machines that have none: tensors there say they are on "meta".

Their numbers are real and stay on the processor, so all code runs and can be compared.
An operation on tensors of both places fails, as it would beside a graphics card, but
for what is allowed there too: copies, single numbers, and indices from the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ELSEWHERE = torch.device("meta")


class There(torch.Tensor):
    """A tensor of that device; ``inner`` has its numbers."""

    inner: Tensor
    is_meta = False  # it has numbers

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        facts = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=ELSEWHERE, **facts
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _each(make: Callable[[Tensor], Any], kind: type, value: Any) -> Any:
    """A value with ``make`` of every tensor of a kind in it."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each(make, kind, v) for v in value])
    if isinstance(value, dict):
        return {k: _each(make, kind, v) for k, v in value.items()}
    return make(value) if isinstance(value, kind) else value


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name.split("::")[1]
    tensors: list[Tensor] = []
    _each(tensors.append, Tensor, (args, kwargs))
    away = any(isinstance(x, There) for x in tensors)
    if name.startswith("index") and away:
        tensors = [args[0]]
    here = [x for x in tensors if x.ndim and not isinstance(x, There)]
    if here and away and name != "copy_":
        raise RuntimeError(
            f"{name}: on two devices; {tuple(here[0].shape)} is on the processor"
        )
    if kwargs.get("device") is not None:
        away = torch.device(kwargs["device"]) == ELSEWHERE
        kwargs = {**kwargs, "device": "cpu"}
    inner, kwargs = _each(lambda x: x.inner, There, (args, kwargs))
    out = func(*inner, **kwargs)
    if name.endswith("_") and isinstance(args[0], Tensor):
        return args[0]
    return _each(There, Tensor, out) if away else out


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _index(value: Any) -> Any:
    """An index whose lists of numbers are tensors, also where they are part of one."""
    if isinstance(value, tuple):
        return tuple(map(_index, value))
    if isinstance(value, list):
        return torch.tensor(value) if value else torch.zeros(0, dtype=torch.long)
    return value


class _Literals(TorchFunctionMode):
    """``torch.tensor`` would move its numbers before `_Operations` sees them.

    So would a list of numbers that is an index.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = [_index(x) for x in args]
        device = kwargs.pop("device", None) if func is torch.tensor else None
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """A device that exists in this block and in this thread only."""
    with _Literals(), _Operations():
        yield ELSEWHERE
