"""The policies that are compared on a ledger: fixed arms, and saved ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from braidbandit.cli.shell.place import Place

if TYPE_CHECKING:
    from braidbandit.evaluation.log import Log

_OFTEN_ENOUGH = 5
"""Rewards of an arm below which nothing can be said of it."""

_MOST = 12


def policies_of(
    place: Place,
    log: Log,
    arms: list[str] | None,
    saved: list[str] | None,
    under: float | None,
) -> dict[str, Any]:
    """Return policies by name.

    Parameters
    ----------
    place : Place
    log : Log
    arms : list of str, optional
        Ids of arms that are always chosen; by default those with enough rewards.
    saved : list of str, optional
        ``NAME=FOLDER`` each.
    under : float, optional
        Compute budget for the policy of the folder.
    """
    labels = _labels(place)
    fixed = _frequent(log) if arms is None else arms
    found: dict[str, Any] = {}
    for arm in fixed:
        if arm not in log.arm_ids:
            raise KeyError(f"the ledger knows no arm {arm!r}; `table --json` has ids")
        found[f"always {labels.get(arm, arm)}"] = arm
    for given in saved or []:
        name, equals, folder = given.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"expected NAME=FOLDER, received {given!r}")
        found[name] = _load(Path(folder).expanduser())
    if under is not None:
        from braidbandit.evaluation.target_policies import UnderLimits

        found[f"as saved, within {under:g} of the compute"] = UnderLimits(
            _load(place.policy), compute_budget=under
        )
    if not found:
        raise ValueError(
            f"no arm has {_OFTEN_ENOUGH} rewards yet, so nothing can be compared; name "
            "arms with --arm, or a policy with --policy"
        )
    return found


def _frequent(log: Log) -> list[str]:
    taken = Counter(log.arm_ids[column] for column in log.columns.tolist())
    return [arm for arm, n in taken.most_common(_MOST) if n >= _OFTEN_ENOUGH]


def _labels(place: Place) -> dict[str, str]:
    from braidbandit.catalogue.braid import Braid

    manifest = place.manifest()
    recipes = [] if manifest is None else manifest["catalogue"]["braids"]
    braids = [Braid.from_recipe(recipe) for recipe in recipes]
    return {braid.id: braid.label() for braid in braids}


def _load(folder: Path) -> Any:
    from braidbandit.recommender.recommender import BraidRecommender

    inner = folder / "policy"
    return BraidRecommender.load(inner if inner.exists() else folder)
