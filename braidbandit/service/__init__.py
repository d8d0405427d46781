"""Answers over HTTP: with ``cli`` the only importers of the agent.

``create_app(settings)`` makes the application, ``run(settings)`` serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braidbandit.service.app import create_app
    from braidbandit.service.running import run
    from braidbandit.service.settings import ServiceSettings

__all__ = ["ServiceSettings", "create_app", "run"]
_WHERE = {"ServiceSettings": "settings", "create_app": "app", "run": "running"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the extra ``serve`` is needed only then."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"{__name__}.{_WHERE[name]}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("braidbandit"):
            raise
        raise ImportError(
            f"the service needs {error.name}: pip install 'braidbandit[serve]'"
        ) from error
    return getattr(module, name)
