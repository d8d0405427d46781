"""What is saved of a recommender, and how it is read back.

A state of format 3 is read too, as 0.1.0 wrote it last; see :func:`newest`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from braidbandit.bandit.guard import ConservativePolicy, DeclineToDefault, Savings
from braidbandit.bandit.online_posterior import FORGET_EVERY, OnlinePosterior
from braidbandit.bandit.policies import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    Policy,
    SquareCB,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.ledger.records import Decision
from braidbandit.recommender.arm_model import ArmModel
from braidbandit.recommender.asking import AskingPace
from braidbandit.recommender.conversations import Conversations
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.feedback_log import (
    Compared,
    FeedbackLog,
    Learnt,
    seconds,
)
from braidbandit.recommender.guard_account import GuardAccount
from braidbandit.recommender.objectives import OBJECTIVES, CostModel, Pacer
from braidbandit.recommender.state_files import edit_manifest
from braidbandit.tasks.encoder import FORMER_SETTINGS, TaskEncoder

Arrays = Mapping[str, NDArray[Any]]
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_GENERATORS = (
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    np.random.SeedSequence,
)

# What states of before do not say.
_SINCE_5: Mapping[str, Any] = {
    "switching_cost": None,
    "conversations": [],
    "asking": asdict(AskingPace()),
    "overridden": {},
}

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
        DeclineToDefault,
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


def to_state(
    settings: Mapping[str, Any],
    model: ArmModel,
    encoder: TaskEncoder,
    pacer: Pacer,
    rng: np.random.Generator,
    talks: Conversations,
    asking: AskingPace,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return manifest and arrays of a recommender.

    Parameters
    ----------
    settings : dict
        Its constructor arguments.
    model : ArmModel
    encoder : TaskEncoder
    pacer : Pacer
    rng : Generator
    talks : Conversations
    asking : AskingPace
    """
    posteriors = _posteriors(model)
    manifest = {
        "catalogue": model.catalogue.to_dict(),
        "catalogue_hash": model.catalogue.hash,
        "encoder": encoder.settings(),
        "encoder_fitted": encoder.__sklearn_is_fitted__(),
        "encoder_hash": encoder.projection_hash(),
        **_settings(settings),
        "scales": {n: p.scales.to_dict() for n, p in posteriors.items()},
        "rng": rng.bit_generator.state,
        "pacer": asdict(pacer),
        "conversations": talks.to_list(),
        "asking": asdict(asking),
        **_learnt(model),
        **_decisions(model.log),
        **_feedback(model.log),
        **_comparisons(model.log),
    }
    return manifest, _arrays(model, posteriors, encoder)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    seed, prior = settings["random_state"], settings["prior"]
    switch = settings["switching_cost"]
    return {
        "policy": policy_to_dict(settings["policy"] or ThompsonSampling()),
        "prior": None if prior is None else prior.to_dict(),
        "price": float(settings["price"]),
        "mean_cost": settings["mean_cost"],
        "drift": _asdict(settings["drift"]),
        "forgetting": float(settings["forgetting"]),
        "max_parameters": int(settings["max_parameters"]),
        "switching_cost": None if switch is None else float(switch),
        # A generator is saved by its state.
        "random_state": None if isinstance(seed, _GENERATORS) else seed,
    }


def _learnt(model: ArmModel) -> dict[str, Any]:
    quality = model.quality
    return {
        "columns": list(model.columns),
        "n_updates": 0 if quality is None else quality.n_updates,
        "clock": 0 if quality is None else quality.clock,
        "faded": 0.0 if quality is None else quality.faded,
        "baseline": model.account.baseline,
        "savings": _savings(model.account),
        "measured": {name: cost.n for name, cost in model.costs.items()},
        "versions": model.versions,
        "alarms": model.alarms,
        "rewound": model.rewound,
        "ledger_position": model.position,
    }


def _decisions(log: FeedbackLog) -> dict[str, Any]:
    return {
        "pending": [decision.to_dict() for decision in log.pending.values()],
        "learnt": [record.to_dict() for record in log.learnt.values()],
        "plain": log.plain,
    }


def _feedback(log: FeedbackLog) -> dict[str, Any]:
    return {
        "settled": log.settled,
        "gone_until": log.gone_until,
        "as_said": log.as_said,
        "expired": log.expired,
        "overridden": log.overridden,
        "counts": log.counts,
    }


def _comparisons(log: FeedbackLog) -> dict[str, Any]:
    """Return what is kept of comparisons; nothing where there never was one."""
    if not log.judged:
        return {}
    compared = [record.to_dict() for record in log.compared.values()]
    return {"compared": compared, "judged": log.judged, "repeats": log.repeats}


def _posteriors(model: ArmModel) -> dict[str, Posterior]:
    found = {} if model.quality is None else {"posterior": model.quality.posterior}
    if model.start is not None:
        found["start"] = model.start
    return found | {name: cost.posterior for name, cost in model.costs.items()}


def _arrays(
    model: ArmModel, posteriors: Mapping[str, Posterior], encoder: TaskEncoder
) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "descriptors": model.descriptors,
        "surprises": model.surprises,
        "origins": np.array(list(model.log.origins.values())).reshape(-1, 2),
    }
    if model.signatures is not None:
        arrays["signatures"] = model.signatures
    for name, posterior in posteriors.items():
        arrays |= {f"{name}.{key}": a for key, a in posterior.to_arrays().items()}
    arrays |= {f"removed.{arm}": z for arm, z in model.removed.items()}
    arrays |= {f"encoder.{n}": a for n, a in encoder.fitted_arrays().items()}
    return arrays


def without_decisions(manifest: Mapping[str, Any], before: datetime) -> dict[str, Any]:
    """Return a manifest without the decisions made before a time, as a purge wants it.

    See :meth:`BraidRecommender.forget_decisions`.
    """
    manifest, _ = newest(manifest, {})
    log, account = _log(manifest, {}), _account(manifest)
    for waited in log.forget(before):
        account.expire(policy_from_dict(manifest["policy"]), waited)
    talks = conversations(manifest)
    talks.forget(before)
    kept = {"savings": _savings(account), "conversations": talks.to_list()}
    return {**manifest, **_decisions(log), **_comparisons(log), **kept}


def purged(text: str, before: datetime) -> str:
    """Return the text of a saved manifest without the decisions made before a time."""
    return edit_manifest(
        text,
        "a snapshot in the ledger",
        lambda manifest: without_decisions(manifest, before),
    )


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
    prior, drift = manifest["prior"], manifest["drift"]
    return {
        # Saved order of the arms, and what is known today about the unfit ones.
        "catalogue": Catalogue(saved.cards.values(), saved.braids, given.unfit),
        "encoder": _encoder(manifest, arrays, encoder),
        "policy": policy_from_dict(manifest["policy"]),
        "prior": None if prior is None else PriorScales(**prior),
        "price": manifest["price"],
        "mean_cost": manifest["mean_cost"],
        "drift": None if drift is None else DriftMonitor(**drift),
        "forgetting": manifest["forgetting"],
        "max_parameters": manifest["max_parameters"],
        "random_state": manifest["random_state"],
        "switching_cost": manifest["switching_cost"],
    }


def learnt(
    manifest: Mapping[str, Any], arrays: Arrays, model: ArmModel
) -> dict[str, Any]:
    """Return the attributes of the saved :class:`ArmModel`, for its ``restore``.

    Parameters
    ----------
    manifest, arrays : dict
    model : ArmModel
        Of the same catalogue and settings, with nothing learnt.
    """
    columns, n_arms = tuple(manifest["columns"]), len(model.catalogue)
    if arrays["descriptors"].shape != (n_arms, len(columns)):
        raise ValueError(
            f"the saved descriptors have shape {arrays['descriptors'].shape}, expected "
            f"({n_arms}, {len(columns)})"
        )
    if arrays["surprises"].shape != (2, n_arms):
        raise ValueError(
            f"the saved surprises have shape {arrays['surprises'].shape}, expected "
            f"(2, {n_arms})"
        )
    _check_finite(arrays)
    prior, saved = model.settings.prior, manifest["scales"]
    unknown = set(saved) - {"posterior", "start", *OBJECTIVES[1:]}
    if unknown:
        raise KeyError(sorted(unknown)[0])
    posteriors = {n: _posterior(n, s, arrays, prior) for n, s in saved.items()}
    quality = None
    if "posterior" in posteriors:
        quality = OnlinePosterior.resume(
            posteriors.pop("posterior"),
            model.settings.forgetting,
            n_updates=_entry(manifest, "n_updates", int),
            clock=_entry(manifest, "clock", int),
            faded=_entry(manifest, "faded", int | float),
        )
    return {
        "descriptors": arrays["descriptors"],
        "columns": columns,
        "signatures": arrays.get("signatures"),
        "surprises": arrays["surprises"],
        "quality": quality,
        "start": posteriors.pop("start", None),
        "costs": {
            name: CostModel.resume(posterior, int(manifest["measured"][name]))
            for name, posterior in posteriors.items()
        },
        "account": _account(manifest),
        "versions": {arm: list(w) for arm, w in manifest["versions"].items()},
        "alarms": {arm: list(v) for arm, v in manifest["alarms"].items()},
        "rewound": _entry(manifest, "rewound", bool),
        "removed": _of("removed", arrays),
        "position": int(manifest["ledger_position"]),
        "log": _log(manifest, arrays),
    }


def conversations(manifest: Mapping[str, Any]) -> Conversations:
    """Return the saved conversations."""
    return Conversations.from_list(manifest["conversations"])


def generator(manifest: Mapping[str, Any]) -> np.random.Generator:
    """Return the saved random generator, at its place in the sequence."""
    state = manifest["rng"]
    if state["bit_generator"] not in _BIT_GENERATORS:
        raise KeyError(state["bit_generator"])
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _of(whose: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays of one part of the state, by their own names."""
    start = f"{whose}."
    return {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}


def _entry(manifest: Mapping[str, Any], key: str, kind: Any) -> Any:
    """Return an entry of the manifest; a flag is no number, and a number no flag."""
    value = manifest[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{key} is {value!r}")
    return value


def _check_finite(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"the saved array {name} is damaged: it holds NaN or infinity; restore "
                "a backup, or learn again from the ledger"
            )


def _posterior(
    name: str, scales: Mapping[str, float], arrays: Arrays, prior: PriorScales | None
) -> Posterior:
    try:
        return Posterior.from_arrays(_of(name, arrays), PriorScales(**scales), prior)
    except ValueError as error:
        raise ValueError(f"the saved {name} does not fit: {error}") from error


def _account(manifest: Mapping[str, Any]) -> GuardAccount:
    baseline, data = _entry(manifest, "baseline", str | None), manifest["savings"]
    if data is None:
        return GuardAccount(baseline)
    told: dict[str, Any] = {**data, "expired": tuple(data["expired"])}
    by = told.pop("booked_by", None)
    # Former states do not say what is owed: 1 for each, as a ConservativePolicy books.
    told.setdefault("owed", -float(len(told["expired"]) + told.get("forgotten", 0)))
    return GuardAccount(baseline, Savings(**told), None if by is None else tuple(by))


def _savings(account: GuardAccount) -> dict[str, Any] | None:
    savings = _asdict(account.savings)
    return None if savings is None else {**savings, "booked_by": account.booked_by}


def _log(manifest: Mapping[str, Any], arrays: Arrays) -> FeedbackLog:
    pending = [Decision.from_dict(data) for data in manifest["pending"]]
    records = [Learnt.from_dict(data) for data in manifest["learnt"]]
    compared = [Compared.from_dict(data) for data in manifest.get("compared", ())]
    settled = {key: float(value) for key, value in manifest["settled"].items()}
    savings = manifest["savings"]
    # A purge reads the manifest alone, and needs no origins.
    origins = arrays.get("origins", np.zeros((len(settled), 2)))
    return FeedbackLog(
        pending={decision.id: decision for decision in pending},
        learnt={record.decision.id: record for record in records},
        settled=settled,
        expired=dict(manifest["expired"]),
        overridden=dict(manifest["overridden"]),
        counts={key: int(value) for key, value in manifest["counts"].items()},
        keep=None if savings is None else savings["baseline"],
        plain=_entry(manifest, "plain", bool),
        origins={
            key: (float(made), bool(said))
            for key, (made, said) in zip(settled, origins, strict=True)
        },
        gone_until=_entry(manifest, "gone_until", int | float | None),
        as_said=_entry(manifest, "as_said", bool),
        compared={record.comparison.key: record for record in compared},
        judged={
            pair: {
                who: (str(better), float(how)) for who, (better, how) in said.items()
            }
            for pair, said in manifest.get("judged", {}).items()
        },
        repeats={
            source: {other: (int(n), int(apart)) for other, (n, apart) in row.items()}
            for source, row in manifest.get("repeats", {}).items()
        },
    )


def newest(
    manifest: Mapping[str, Any], arrays: Arrays
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a state in the newest format.

    Before format 5 there were no conversations, and nobody was asked or overrode.
    Format 3 grew while it was written: what its first states do not say is filled in.
    Up to format 4, task features are in one block.
    """
    if manifest["format"] > 4:
        return dict(manifest), dict(arrays)
    manifest, arrays = {**_SINCE_5, **manifest}, _in_one_block(manifest, arrays)
    if manifest["format"] > 3:
        return manifest, arrays
    savings = manifest["savings"]
    if savings is not None:
        savings = {"expired": (), **savings, **manifest.get("forgotten", {})}
    # An early state does not say when decisions were made: before the newest known.
    made = [seconds(Decision.from_dict(data)) for data in manifest["pending"]]
    made += [seconds(Decision.from_dict(d["decision"])) for d in manifest["learnt"]]
    last = max(made, default=datetime.now(timezone.utc).timestamp())
    counts, settled = manifest["counts"], manifest["settled"]
    gone = counts["learnt"] - counts["retracted"] > len(settled)
    noted = manifest["versions"] if manifest.get("drift") else {}

    def faded(clock: int) -> float:
        # One rate all along, in steps.
        steps = clock // FORGET_EVERY
        return steps * FORGET_EVERY * math.log(manifest["forgetting"])

    defaults: dict[str, Any] = {
        "mean_cost": None,
        "drift": None,
        "faded": faded(manifest["clock"]),
        "alarms": {arm: list(range(len(w))) for arm, w in noted.items()},
        "rewound": False,
        "plain": not manifest["measured"],
        "gone_until": last if gone else None,
        "as_said": not gone,
    }
    learnt = []
    for data in manifest["learnt"]:
        clock = data.get("clock")
        record = {key: value for key, value in data.items() if key != "clock"}
        learnt.append(record if clock is None else record | {"faded": faded(clock - 1)})
    filled = {"origins": np.tile([last, 0.0], (len(settled), 1)), **arrays}
    for name in manifest["scales"]:
        if f"{name}.own_groups" not in filled and f"{name}.groups" in filled:
            own = filled[f"{name}.own_mean"].shape
            filled[f"{name}.own_groups"] = Posterior(
                filled[f"{name}.groups"], None, *own
            ).own_groups
    known = {**manifest, "savings": savings, "forgotten": {}, "learnt": learnt}
    return {**defaults, **known}, filled


def _in_one_block(
    manifest: Mapping[str, Any], arrays: Arrays
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a state of before there were blocks, and no letters."""
    filled = dict(arrays)
    for name in manifest["scales"]:
        if f"{name}.groups" in arrays:
            k = arrays[f"{name}.groups"].shape[1]
            filled[f"{name}.blocks"] = np.zeros(k, dtype=np.int64)
    if manifest["encoder_fitted"]:
        filled["encoder.letters_"] = np.zeros((0, 1))
        filled["encoder.letters_mean_"] = np.zeros(0)
    return filled


def _encoder(
    manifest: Mapping[str, Any], arrays: Arrays, given: TaskEncoder | None
) -> TaskEncoder:
    settings: dict[str, Any] = manifest["encoder"]
    encoder: Any
    if given is not None:
        encoder = clone(given)
        if not FORMER_SETTINGS.keys() & settings.keys():
            encoder.set_params(**FORMER_SETTINGS)
    elif settings["model"] is None:
        raise ValueError(
            "the saved encoder had an embedder of its own, which is code and is not "
            "saved; give load(encoder=TaskEncoder(embedder=...))"
        )
    else:
        saved: dict[str, Any] = {**FORMER_SETTINGS, **settings}
        saved["types"] = tuple(settings["types"])
        encoder = TaskEncoder(**saved)
    if encoder.settings() != settings:
        raise ValueError(
            f"the state was saved with encoder {settings}, received "
            f"{encoder.settings()}; give an encoder with the saved settings"
        )
    if _entry(manifest, "encoder_fitted", bool):
        encoder.take_fit(_of("encoder", arrays))
    if encoder.projection_hash() != manifest["encoder_hash"]:
        raise ValueError("the saved encoder does not match its hash; restore a backup")
    found: TaskEncoder = encoder
    return found
