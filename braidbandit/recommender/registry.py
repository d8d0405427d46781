"""Policies as JSON-able data: by name and settings, never by import path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from braidbandit.bandit.choice import Policy
from braidbandit.bandit.guard import ConservativePolicy
from braidbandit.bandit.policies import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    SquareCB,
    ThompsonSampling,
    Uniform,
)

POLICIES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        ThompsonSampling,
        LinUCB,
        SquareCB,
        EpsilonGreedy,
        Greedy,
        Uniform,
        ConservativePolicy,
    )
}


def policy_to_dict(policy: Policy | ConservativePolicy) -> dict[str, Any]:
    """Name and settings of a policy, as JSON-able data.

    Examples
    --------
    >>> policy_to_dict(Greedy())
    {'name': 'Greedy', 'floor': 0.0}
    """
    name = type(policy).__name__
    if POLICIES.get(name) is not type(policy):
        raise TypeError(
            f"only the policies of braidbandit can be saved, received {name}; expected "
            f"one of {sorted(POLICIES)}"
        )
    settings = {f.name: getattr(policy, f.name) for f in fields(POLICIES[name])}
    if settings.get("policy") is not None:
        settings["policy"] = policy_to_dict(settings["policy"])
    return {"name": name, **settings}


def policy_from_dict(data: Mapping[str, Any]) -> Policy | ConservativePolicy:
    """Build a policy from :func:`policy_to_dict`."""
    settings = {key: value for key, value in data.items() if key != "name"}
    if data.get("name") not in POLICIES:
        raise ValueError(
            f"unknown policy {data.get('name')!r}; expected one of {sorted(POLICIES)}"
        )
    if settings.get("policy") is not None:
        settings["policy"] = policy_from_dict(settings["policy"])
    policy: Policy | ConservativePolicy = POLICIES[data["name"]](**settings)
    return policy
