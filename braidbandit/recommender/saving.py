"""What of a recommender goes into a saved state, and how it comes back.

Format 1 (0.1.0) held a posterior in which arms had descriptor columns of their own; of
such a state the settings and the waiting decisions are read, and the rest is learnt
again from the ledger. Up to format 2 an encoder projected the embedding itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from braidbandit.bandit.guard import Savings
from braidbandit.bandit.policies import ThompsonSampling
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales
from braidbandit.bandit.rowbyrow import _FORGET_EVERY
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.ledger.records import Decision
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.feedback import FeedbackLog, Learnt, seconds
from braidbandit.recommender.guarding import Guarding
from braidbandit.recommender.objectives import CostModel, Pacer
from braidbandit.recommender.registry import policy_from_dict, policy_to_dict
from braidbandit.recommender.state import edit_manifest
from braidbandit.tasks.encoder import TaskEncoder

Arrays = Mapping[str, NDArray[Any]]
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_GENERATORS = (
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    np.random.SeedSequence,
)
_ENCODER_ARRAYS = (
    "gates_",
    "mean_",
    "components_",
    "example_points_",
    "example_types_",
)


def take(agent: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return manifest and arrays of a started recommender."""
    encoder: TaskEncoder = agent.encoder_
    fitted = encoder.__sklearn_is_fitted__()
    learner, bandit = agent.learner_, agent.learner_.bandit
    arrays: dict[str, NDArray[Any]] = {
        "descriptors": bandit.Z_,
        "surprises": learner.surprises,
        "origins": np.array(list(learner.log.origins.values())).reshape(-1, 2),
    }
    if learner.signatures is not None:
        arrays["signatures"] = learner.signatures
    scales = {}
    posteriors = {"posterior": agent.posterior_, "start": learner.start}
    posteriors |= {name: model.posterior for name, model in learner.models.items()}
    for name, posterior in posteriors.items():
        if posterior is not None:
            arrays[f"{name}.groups"] = posterior.groups
            arrays[f"{name}.own_groups"] = posterior.own_groups
            for key in Posterior.ARRAYS:
                arrays[f"{name}.{key}"] = getattr(posterior, key)
            arrays[f"{name}.sums"] = np.array([posterior.square, posterior.count])
            scales[name] = posterior.scales.to_dict()
    arrays |= {f"removed.{arm}": z for arm, z in learner.removed.items()}
    if fitted:
        arrays |= {f"encoder.{n}": getattr(encoder, n) for n in _ENCODER_ARRAYS}
    seed, log = agent.random_state, learner.log
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
        "mean_cost": agent.mean_cost,
        "drift": _asdict(agent.drift),
        "forgetting": float(agent.forgetting),
        "max_parameters": int(agent.max_parameters),
        # A generator is saved by its state.
        "random_state": None if isinstance(seed, _GENERATORS) else seed,
        "rng": bandit.rng_.bit_generator.state,
        "columns": list(bandit.columns_),
        "n_updates": bandit.n_updates_,
        "clock": bandit.clock_,
        "faded": bandit.faded_,
        "baseline": agent.baseline_,
        **_saved(agent.savings_),
        "pacer": asdict(agent.pacer_),
        "measured": {name: model.n for name, model in learner.models.items()},
        "versions": learner.versions,
        "alarms": learner.alarms,
        "rewound": learner.rewound,
        "ledger_position": agent.ledger_position_,
        **_decisions(log),
        "settled": log.settled,
        "gone_until": log.gone_until,
        "as_said": log.as_said,
        "expired": log.expired,
        "counts": log.counts,
    }
    return manifest, arrays


def without_decisions(manifest: Mapping[str, Any], before: datetime) -> dict[str, Any]:
    """Return a manifest without the decisions made before a time, as a purge wants it.

    See :meth:`BraidRecommender.forget_decisions`.
    """
    if manifest["format"] == 1:
        made = [Decision.from_dict(data) for data in manifest["pending"]]
        log = FeedbackLog(pending={decision.id: decision for decision in made})
        log.forget(before)
        return {**manifest, "pending": _decisions(log)["pending"]}
    log, guarding = _log(manifest, {}), _guarding(manifest)
    for waited in log.forget(before):
        guarding.expire(policy_from_dict(manifest["policy"]), waited)
    return {**manifest, **_decisions(log), **_saved(guarding.savings)}


def purged(text: str, before: datetime) -> str:
    """Return the text of a saved manifest without the decisions made before a time."""
    return edit_manifest(
        text,
        "a snapshot in the ledger",
        lambda manifest: without_decisions(manifest, before),
    )


def _decisions(log: FeedbackLog) -> dict[str, Any]:
    return {
        "pending": [decision.to_dict() for decision in log.pending.values()],
        "learnt": [record.to_dict() for record in log.learnt.values()],
        "plain": log.plain,
    }


def _saved(savings: Savings | None) -> dict[str, Any]:
    # What older versions do not know is apart from the rest, which they read.
    known, names = _asdict(savings), ("forgotten", "expired_until")
    forgotten = {} if known is None else {name: known.pop(name) for name in names}
    return {"savings": known, "forgotten": forgotten}


def _asdict(record: Any) -> dict[str, Any] | None:
    return None if record is None else asdict(record)


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
    prior, drift = manifest["prior"], manifest.get("drift")
    return {
        # Saved order of the arms, and what is known today about the unfit ones.
        "catalogue": Catalogue(saved.cards.values(), saved.braids, given.unfit),
        "encoder": _encoder(manifest, arrays, encoder),
        "policy": policy_from_dict(manifest["policy"]),
        "prior": None if prior is None else PriorScales(**prior),
        "price": manifest["price"],
        "mean_cost": manifest.get("mean_cost"),
        "drift": None if drift is None else DriftMonitor(**drift),
        "forgetting": manifest["forgetting"],
        "max_parameters": manifest["max_parameters"],
        "random_state": manifest["random_state"],
    }


def fill(
    agent: Any, manifest: Mapping[str, Any], arrays: Arrays, resume_rng: bool
) -> None:
    """Put the learnt state into a recommender that was just started."""
    learner, bandit = agent.learner_, agent.learner_.bandit
    if resume_rng:
        bandit.rng_ = _generator(manifest["rng"])
    else:
        bandit.seed()
    if manifest["format"] == 1:
        _fill_from_format_1(learner, manifest)
        return
    _fill_arms(learner, manifest, arrays)
    for name, scales in manifest["scales"].items():
        posterior = _posterior(name, scales, arrays, agent.prior)
        if name == "posterior":
            bandit.posterior_ = posterior
        elif name == "start":
            learner.start = posterior
        else:
            width = bandit.posterior_.groups.shape[1]
            model = CostModel(bandit.columns_, width, len(learner.catalogue))
            model.posterior, model.n = posterior, int(manifest["measured"][name])
            learner.models[name] = model
    bandit.n_updates_, bandit.clock_ = manifest["n_updates"], manifest["clock"]
    bandit.faded_ = manifest.get("faded", _faded(manifest, manifest["clock"]))
    agent.ledger_position_ = int(manifest["ledger_position"])
    agent.pacer_ = Pacer(**manifest["pacer"])
    learner.log = _log(manifest, arrays)


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    if state["bit_generator"] not in _BIT_GENERATORS:
        raise KeyError(state["bit_generator"])
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _fill_from_format_1(learner: Any, manifest: Mapping[str, Any]) -> None:
    """Take over what waits for a reward; the ledger is read again from its start."""
    for data in manifest["pending"]:
        learner.log.await_reward(Decision.from_dict(data))
    if manifest["n_updates"] or manifest["scales"]:
        warnings.warn(
            f"the state is of format 1, whose posterior of {manifest['n_updates']} "
            "rewards this version cannot read: repeat the warm start, if there was "
            "one, and learn again from the ledger (an agent does that by itself)",
            stacklevel=4,
        )


def _fill_arms(learner: Any, manifest: Mapping[str, Any], arrays: Arrays) -> None:
    bandit, columns = learner.bandit, tuple(manifest["columns"])
    if arrays["descriptors"].shape != (len(learner.catalogue), len(columns)):
        raise ValueError(
            f"the saved descriptors have shape {arrays['descriptors'].shape}, expected "
            f"({len(learner.catalogue)}, {len(columns)})"
        )
    bandit.Z_, bandit.columns_ = arrays["descriptors"], columns
    learner.signatures = arrays.get("signatures")
    learner.surprises = arrays["surprises"]
    learner.guarding = _guarding(manifest)
    learner.versions = {arm: list(w) for arm, w in manifest["versions"].items()}
    # Older states do not say which of them the drift monitor noted.
    noted = manifest["versions"] if manifest.get("drift") else {}
    alarms = manifest.get("alarms", {a: range(len(w)) for a, w in noted.items()})
    learner.alarms = {arm: list(versions) for arm, versions in alarms.items()}
    learner.rewound = bool(manifest.get("rewound", False))
    learner.removed = {
        key.removeprefix("removed."): array
        for key, array in arrays.items()
        if key.startswith("removed.")
    }


def _posterior(
    name: str, scales: Mapping[str, float], arrays: Arrays, prior: PriorScales | None
) -> Posterior:
    if name not in ("posterior", "start", "latency", "compute"):
        raise KeyError(name)
    own = arrays[f"{name}.own_mean"].shape
    posterior = Posterior(arrays[f"{name}.groups"], prior, *own)
    # Older states had them follow from the columns.
    posterior.own_groups = arrays.get(f"{name}.own_groups", posterior.own_groups)
    posterior.reset(PriorScales(**scales))
    # Up to format 2 no arm had a variance of its own.
    arrays = {f"{name}.own_change": posterior.own_change, **arrays}
    arrived = {key: arrays[f"{name}.{key}"] for key in Posterior.ARRAYS}
    seen = len(arrived["seen"])
    expected = {key: getattr(posterior, key).shape for key in Posterior.ARRAYS}
    expected |= {"seen": (seen,), "own_load": (seen, *posterior.own_load.shape[1:])}
    for key, array in arrived.items():
        if array.shape != expected[key]:
            raise ValueError(
                f"the saved {name} has {key} of shape {array.shape}, expected "
                f"{expected[key]}"
            )
        setattr(posterior, key, array)
    posterior.square, posterior.count = map(float, arrays[f"{name}.sums"])
    return posterior


def _guarding(manifest: Mapping[str, Any]) -> Guarding:
    data = manifest["savings"]
    if data is None:
        return Guarding(manifest["baseline"])
    expired = tuple(data.get("expired", ()))
    forgotten = manifest.get("forgotten", {})
    savings = Savings(**{**data, "expired": expired, **forgotten})
    return Guarding(manifest["baseline"], savings)


def _log(manifest: Mapping[str, Any], arrays: Arrays) -> FeedbackLog:
    pending = [Decision.from_dict(data) for data in manifest["pending"]]
    records = [_record(manifest, data) for data in manifest["learnt"]]
    savings, counts = manifest["savings"], manifest["counts"]
    settled = {key: float(value) for key, value in manifest["settled"].items()}
    gone = counts["learnt"] - counts["retracted"] > len(settled)
    # Older states do not say when the decisions were made: before the newest known.
    known = [*pending, *(record.decision for record in records)]
    newest = max(map(seconds, known), default=datetime.now(timezone.utc).timestamp())
    origins = arrays.get("origins", np.tile([newest, 0.0], (len(settled), 1)))
    return FeedbackLog(
        pending={decision.id: decision for decision in pending},
        learnt={record.decision.id: record for record in records},
        settled=settled,
        expired=dict(manifest["expired"]),
        counts={key: int(value) for key, value in counts.items()},
        keep=None if savings is None else savings["baseline"],
        # Older states do not say it; only what was measured is known of them.
        plain=bool(manifest.get("plain", not manifest["measured"])),
        origins={
            key: (float(made), bool(said))
            for key, (made, said) in zip(settled, origins, strict=True)
        },
        gone_until=manifest.get("gone_until", newest if gone else None),
        as_said=bool(manifest.get("as_said", not gone)),
    )


def _record(manifest: Mapping[str, Any], data: Mapping[str, Any]) -> Learnt:
    data = dict(data)
    # Older states say when it was learnt, and forgot at one rate all along.
    clock = data.pop("clock", None)
    if clock is not None:
        data["faded"] = _faded(manifest, clock - 1)
    return Learnt.from_dict(data)


def _faded(manifest: Mapping[str, Any], clock: int) -> float:
    times = clock // _FORGET_EVERY
    return times * _FORGET_EVERY * math.log(manifest["forgetting"])


def _no_gates(arrays: Arrays) -> NDArray[Any]:
    return np.zeros((0, arrays["encoder.components_"].shape[1] + 1))


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
        if manifest["format"] < 3:
            arrays = {**arrays, "encoder.gates_": _no_gates(arrays)}
        for name in _ENCODER_ARRAYS:
            setattr(encoder, name, arrays[f"encoder.{name}"])
        encoder._note_fit()
    if encoder.projection_hash() != manifest["encoder_hash"]:
        raise ValueError("the saved encoder does not match its hash; restore a backup")
    return encoder
