"""Twins of a model: frames of their own around the same weights.

What a strand with an adapter changes is a twin, so that its base and the other adapters
on it never notice, and each can be read by several threads at once: no adapter has to
be switched on for a request, and none waits for another.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

_Model = TypeVar("_Model", bound=nn.Module)

# Models that share weights, by each of them; none is kept alive.
_KIN: WeakKeyDictionary[nn.Module, WeakSet[nn.Module]] = WeakKeyDictionary()


def twin(model: _Model) -> _Model:
    """A model with modules of its own that has the same weights in memory.

    Modules without parts of their own are shared as they are, and so is every parameter
    and buffer: what is copied are the frames around them, with their hooks.
    """
    kept: list[Any] = [m for m in model.modules() if next(m.children(), None) is None]
    kept += [*model.parameters(), *model.buffers()]
    made = copy.deepcopy(model, {id(shared): shared for shared in kept})
    family = _KIN.setdefault(model, WeakSet([model]))
    family.add(made)
    _KIN[made] = family
    return made


def kin(model: nn.Module) -> list[nn.Module]:
    """The model and its twins: moving one moves the weights of all."""
    return list(_KIN.get(model, [model]))
