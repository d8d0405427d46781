"""Strands of one architecture and tokenizer merged by weight, through `mergekit`.

An optional extra (``pip install 'braidbandit[merge]'``). What comes out is a folder,
and any folder is a strand: a merged model costs no more than one of its parents, and
in a catalogue it is one more model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from .._files import making
from .._named import in_order
from ..tokens.token_bytes import TokenBytes
from .loading import load
from .pool import Pool

# Method -> whether it counts from a common ancestor.
METHODS = {"linear": False, "slerp": False, "ties": True, "dare_ties": True,
           "dare_linear": True}  # fmt: skip


def merge(
    models: Sequence[str],
    target: str | Path,
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    base: str | None = None,
    density: float | None = None,
    seed: int | None = None,
    pool: Pool | None = None,
) -> Path:
    """Merge models by weight into a new folder.

    Parameters
    ----------
    models : sequence of str
        At least two, of one architecture, shape and tokenizer: names in the pool, hub
        ids, folders or GGUF files.
    target : path
        The folder to write; it must not exist.
    method : {"linear", "slerp", "ties", "dare_ties", "dare_linear"}
        "linear" is the weighted mean (Wortsman et al. 2022); "slerp" the same along
        the sphere, of two models; "ties" (Yadav et al. 2023) adds what each model
        changed of ``base``, trimmed to the largest changes and of one sign; "dare"
        (Yu et al. 2024) drops changes at random and scales up the rest.
    weights : sequence of float, optional
        One per model, or a dict by name; not negative, sum 1. Equal by default.
    base : str, optional
        The model that all were trained from; "ties" and "dare" need it.
    density : float in (0, 1], optional
        Share of changes that "ties" and "dare" keep, 0.5 by default; the others know
        none.
    seed : int, optional
        Of what "dare" drops, 0 by default; the others drop nothing.
    pool : Pool, optional
        Where names come from.

    Returns
    -------
    Path
        ``target``, to be used as the source of a strand.

    Raises
    ------
    ImportError
        When mergekit is not installed.
    ValueError
        When a model cannot be loaded, the models do not fit together, or the target
        exists.
    """
    target = Path(target).expanduser()
    share = 0.5 if density is None else density
    shares = _checked(models, method, weights, base, share, target)
    if density is not None and base is None:
        raise ValueError(f"{method} keeps every change; it has no density")
    if seed is not None and not method.startswith("dare"):
        raise ValueError(f"{method} draws nothing; a seed is for 'dare' only")
    pool = Pool() if pool is None else pool
    folders = {name: pool.folder(name) for name in [*models, *([base] if base else [])]}
    _check_alike(folders)
    if importlib.util.find_spec("mergekit") is None:
        raise ImportError(
            "merging needs mergekit: pip install 'braidbandit[merge]'; or merge "
            "elsewhere and use the folder as a strand"
        )
    recipe = _recipe(models, folders, method, shares, base, share)
    with making(target) as folder:
        _run(recipe, folder, seed or 0)
    return target


def _checked(
    models: Sequence[str],
    method: str,
    weights: Sequence[float] | None,
    base: str | None,
    density: float,
    target: Path,
) -> list[float]:
    """The weights, after refusing what cannot be merged."""
    if isinstance(models, str | Set) or len(models) < 2:
        raise ValueError(f"received models {models!r}; give a list of at least two")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {list(METHODS)}")
    if METHODS[method] != (base is not None):
        need = "needs the base" if METHODS[method] else "knows no base"
        raise ValueError(f"{method} {need} that the models were trained from")
    if method == "slerp" and len(models) != 2:
        raise ValueError(f"slerp merges two models, received {len(models)}")
    if not 0 < density <= 1:
        raise ValueError(f"density lies in (0, 1], received {density!r}")
    if target.exists():
        raise ValueError(f"{str(target)!r} exists; give a folder to be made")
    shares = [1 / len(models)] * len(models)
    if weights is not None:
        shares = in_order(weights, models, "weights")
    if len(shares) != len(models) or not all(w >= 0 for w in shares):
        raise ValueError(f"weights {shares} do not fit {len(models)} models")
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"weights must sum to 1, received {shares}")
    return shares


def _check_alike(folders: Mapping[str, str]) -> None:
    """Refuse models that differ in shape or tokenizer, naming what differs."""
    facts: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        config = load(AutoConfig, folder, name)
        text = config.get_text_config(decoder=True)
        facts[name] = {
            "architecture": config.model_type,
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "vocabulary": text.vocab_size,
            "tokenizer": TokenBytes(load(AutoTokenizer, folder, name)).key,
        }
    first, *others = facts
    for name in others:
        for what, value in facts[first].items():
            if facts[name][what] != value:
                raise ValueError(
                    f"{first!r} and {name!r} cannot be merged by weight: {what} "
                    f"{value} and {facts[name][what]}; braid them instead"
                )


def _recipe(
    models: Sequence[str],
    folders: Mapping[str, str],
    method: str,
    shares: Sequence[float],
    base: str | None,
    density: float,
) -> dict[str, Any]:
    """What mergekit is told."""
    if method == "slerp":
        return {
            "merge_method": "slerp",
            "base_model": folders[models[0]],
            "models": [{"model": folders[name]} for name in models],
            "parameters": {"t": shares[1]},
            "dtype": "float32",
        }
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {
                "model": folders[name],
                "parameters": {"weight": w, **({"density": density} if base else {})},
            }
            for name, w in zip(models, shares, strict=True)
        ],
        "dtype": "float32",
    }
    if base is not None:
        recipe["base_model"] = folders[base]
    return recipe


def _run(recipe: Mapping[str, Any], folder: Path, seed: int) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(random_seed=seed, quiet=True, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(dict(recipe)), str(folder), options)
