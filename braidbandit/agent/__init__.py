"""The loop: decide, build the braid, let it write, learn how it was."""

from __future__ import annotations

from braidbandit.agent.meta_braider import MetaBraider

__all__ = ["MetaBraider"]
