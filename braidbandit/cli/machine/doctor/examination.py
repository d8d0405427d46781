"""The whole examination: every check that applies, in the order of causes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from braidbandit.catalogue.cards import ModelCard
from braidbandit.cli.machine.doctor.agent_folder import (
    check_embeddings,
    check_folder,
    check_kept,
    check_space,
)
from braidbandit.cli.machine.doctor.finding import Finding
from braidbandit.cli.machine.doctor.installation import (
    Places,
    check_packages,
    check_python,
    check_torch,
)
from braidbandit.cli.machine.doctor.ledger_file import check_ledger
from braidbandit.cli.machine.doctor.memory import check_memory
from braidbandit.cli.machine.doctor.models import check_model
from braidbandit.cli.machine.doctor.policy import check_encoder, check_policy

Check = Callable[[], Finding]


def checks_of(
    folder: Path,
    cards: Sequence[ModelCard],
    encoder: str | None = None,
    places: Places = None,
) -> Iterator[Check]:
    """Yield the checks of an agent; each is made when it is called.

    Parameters
    ----------
    folder : Path
        Of the agent.
    cards : sequence of ModelCard
        Its pool.
    encoder : str, optional
        The encoder's model in the settings.
    places : sequence of str, optional
        Where packages are looked for.
    """
    local = any(not card.is_served for card in cards)
    served = any(card.is_served for card in cards)
    yield check_python
    yield lambda: check_packages("cli", places)
    yield lambda: check_torch(places, needed=local)
    if local:
        yield lambda: check_packages("full", places)
    if served:
        yield lambda: check_packages("endpoints", places)
    yield lambda: check_folder(folder)
    yield lambda: check_space(folder)
    yield lambda: check_ledger(folder / "ledger.sqlite")
    yield lambda: check_policy(folder)
    yield lambda: check_encoder(folder, encoder)
    yield lambda: check_embeddings(folder)
    yield lambda: check_kept("trained parts", folder / "store")
    if local:
        yield lambda: check_kept("cache", cache_folder())
    yield lambda: check_memory(cards)
    for card in cards:
        yield lambda card=card: check_model(card)


def cache_folder() -> Path:
    """Return where converted models are kept, as ``fusion`` finds it.

    Its own function is not called: importing it loads torch.
    """
    named = os.environ.get("BRAIDBANDIT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or Path(base) / "braidbandit").expanduser()
