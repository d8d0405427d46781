"""What of a recommender goes into a saved state, and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from braidbandit.catalogue import Catalogue
from braidbandit.decision import Decision
from braidbandit.drift import DriftMonitor
from braidbandit.encoding import TaskEncoder
from braidbandit.guard import Savings
from braidbandit.policies import ThompsonSampling
from braidbandit.posterior import Posterior, PriorScales
from braidbandit.registry import policy_from_dict, policy_to_dict

Arrays = Mapping[str, NDArray[Any]]
_ENCODER_ARRAYS = ("mean_", "components_", "example_points_", "example_types_")


def take(agent: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return manifest and arrays of a started recommender."""
    encoder: TaskEncoder = agent.encoder_
    fitted = encoder.__sklearn_is_fitted__()
    arrays: dict[str, NDArray[Any]] = {}
    scales = {}
    for name in ("posterior", "start"):
        posterior: Posterior | None = getattr(agent, f"{name}_")
        if posterior is not None:
            arrays["groups"] = posterior.groups
            for key in Posterior.ARRAYS:
                arrays[f"{name}.{key}"] = getattr(posterior, key)
            arrays[f"{name}.sums"] = np.array([posterior.square, posterior.count])
            scales[name] = posterior.scales.to_dict()
    if agent.signatures_ is not None:
        arrays["signatures"] = agent.signatures_
    arrays["surprises"] = agent.surprises_
    if fitted:
        arrays |= {f"encoder.{n}": getattr(encoder, n) for n in _ENCODER_ARRAYS}
    seed = agent.random_state
    manifest = {
        "catalogue": agent.catalogue.to_dict(),
        "catalogue_hash": agent.catalogue_hash_,
        "encoder": encoder.settings(),
        "encoder_fitted": fitted,
        "encoder_hash": encoder.projection_hash(),
        "policy": policy_to_dict(agent.policy or ThompsonSampling()),
        "prior": None if agent.prior is None else agent.prior.to_dict(),
        "scales": scales,
        "price": float(agent.price),
        "drift": None if agent.drift is None else asdict(agent.drift),
        "forgetting": float(agent.forgetting),
        "max_parameters": int(agent.max_parameters),
        "random_state": None if isinstance(seed, np.random.Generator) else seed,
        "rng": agent.rng_.bit_generator.state,
        "n_updates": agent.n_updates_,
        "ledger_position": agent.ledger_position_,
        "baseline": agent.baseline_,
        "savings": None if agent.savings_ is None else asdict(agent.savings_),
        "pending": [decision.to_dict() for decision in agent.pending_.values()],
        "settled": agent.settled_,
    }
    return manifest, arrays


def parameters(
    manifest: Mapping[str, Any],
    arrays: Arrays,
    catalogue: Catalogue | None,
    encoder: TaskEncoder | None,
) -> dict[str, Any]:
    """Return the constructor arguments of the saved recommender."""
    saved = Catalogue.from_dict(manifest["catalogue"])
    given = saved if catalogue is None else catalogue
    if not given.hash == saved.hash == manifest["catalogue_hash"]:
        raise ValueError(
            f"the state was saved for catalogue {manifest['catalogue_hash']}, received "
            f"{given.hash}; build the catalogue as it was, or leave it out"
        )
    prior = manifest["prior"]
    return {
        # Saved order of the arms, and what is known today about the unfit ones.
        "catalogue": Catalogue(saved.cards.values(), saved.braids, given.unfit),
        "encoder": _encoder(manifest, arrays, encoder),
        "policy": policy_from_dict(manifest["policy"]),
        "prior": None if prior is None else PriorScales(**prior),
        "price": manifest["price"],
        "drift": None
        if manifest["drift"] is None
        else DriftMonitor(**manifest["drift"]),
        "forgetting": manifest["forgetting"],
        "max_parameters": manifest["max_parameters"],
        "random_state": manifest["random_state"],
    }


def fill(
    agent: Any, manifest: Mapping[str, Any], arrays: Arrays, resume_rng: bool
) -> None:
    """Put the learnt state into a recommender that was just started."""
    if "signatures" in arrays:
        agent._describe(arrays["signatures"])
    for name, scales in manifest["scales"].items():
        if name not in ("posterior", "start"):
            raise KeyError(name)
        own_mean = arrays[f"{name}.own_mean"]
        posterior = Posterior(arrays["groups"], agent.prior, *own_mean.shape)
        posterior.reset(PriorScales(**scales))
        arrived = {key: arrays[f"{name}.{key}"] for key in Posterior.ARRAYS}
        seen = len(arrived["seen"])
        expected = {key: getattr(posterior, key).shape for key in Posterior.ARRAYS}
        expected |= {
            "seen": (seen,),
            "own_load": (seen, *posterior.own_load.shape[1:]),
        }
        for key, array in arrived.items():
            if array.shape != expected[key]:
                raise ValueError(
                    f"the saved {name} has {key} of shape {array.shape}, expected "
                    f"{expected[key]}"
                )
            setattr(posterior, key, array)
        posterior.square, posterior.count = map(float, arrays[f"{name}.sums"])
        setattr(agent, f"{name}_", posterior)
    agent.n_updates_ = int(manifest["n_updates"])
    agent.ledger_position_ = int(manifest["ledger_position"])
    agent.surprises_ = arrays["surprises"]
    agent.baseline_ = manifest["baseline"]
    savings = manifest["savings"]
    agent.savings_ = None if savings is None else Savings(**savings)
    decisions = [Decision.from_dict(data) for data in manifest["pending"]]
    agent.pending_ = {decision.id: decision for decision in decisions}
    agent.settled_ = {key: float(value) for key, value in manifest["settled"].items()}
    if resume_rng:
        agent.rng_.bit_generator.state = manifest["rng"]
    else:
        agent.rng_ = np.random.default_rng()


def _encoder(
    manifest: Mapping[str, Any], arrays: Arrays, given: TaskEncoder | None
) -> TaskEncoder:
    settings = manifest["encoder"]
    if given is not None:
        encoder = clone(given)
    elif settings["model"] is None:
        raise ValueError(
            "the saved encoder had an embedder of its own, which is code and is not "
            "saved; give load(encoder=TaskEncoder(embedder=...))"
        )
    else:
        encoder = TaskEncoder(**{**settings, "types": tuple(settings["types"])})
    if encoder.settings() != settings:
        raise ValueError(
            f"the state was saved with encoder {settings}, received "
            f"{encoder.settings()}; give an encoder with the saved settings"
        )
    if manifest["encoder_fitted"]:
        for name in _ENCODER_ARRAYS:
            setattr(encoder, name, arrays[f"encoder.{name}"])
    if encoder.projection_hash() != manifest["encoder_hash"]:
        raise ValueError("the saved encoder does not match its hash; restore a backup")
    return encoder
