"""Adapters: small trained changes of a base, such as LoRA, through `peft`.

An optional extra (``pip install 'braidbandit[adapters]'``). Every adapter stands on a
twin of its base, so that any number of them, and the plain base, have the base's
weights in memory once. An adapter is read from ``adapter_config.json`` and
``adapter_model.safetensors``; nothing else of its folder is, and no code is run.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from .twins import twin

_LOG = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")

# Kinds that change the output of layers, each tested against peft's own model.
KINDS = ("LORA", "LOHA", "LOKR", "IA3", "OFT")
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING",
            "CPT", "CARTRIDGE", "ADAPTION_PROMPT")  # fmt: skip

# Settings that do not enter what an adapter computes.
_ASIDE = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
          "revision", "inference_mode", "lora_dropout", "rank_dropout",
          "module_dropout", "megatron_core", "init_lora_weights",
          "init_weights", "init_ia3_weights"}  # fmt: skip
# Settings that do. Others may change the base's own weights or what a request does, or
# import code by name: an adapter that sets one is refused.
_HEEDED = {"peft_type", "r", "target_modules", "exclude_modules", "lora_alpha",
           "alpha", "fan_in_fan_out", "use_rslora", "use_dora", "lora_bias",
           "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
           "alpha_pattern", "feedforward_modules", "decompose_both",
           "decompose_factor", "oft_block_size", "coft", "eps", "block_share",
           "use_cayley_neumann", "num_cayley_neumann_terms"}  # fmt: skip
# Starts that leave the base's own weights as they are.
_STARTS = (True, False, "gaussian", "orthogonal")
_NAME = "default"
_PREFIX = "base_model.model."
_MERGE_IT = (
    "merge it into its base (peft's merge_and_unload) and use that folder as a strand"
)


class Adapter(NamedTuple):
    """An adapter as its folder has it.

    Attributes
    ----------
    folder : str
    base : str or None
        The base that its configuration names.
    config : PeftConfig
    settings : str
        Those that enter what it computes, as text: they are in no weight.
    """

    folder: str
    base: str | None
    config: Any
    settings: str


def adapter_parameters(folder: str) -> int:
    """Number of weights in an adapter's folder, of which none is read."""
    _read_config(folder)
    try:
        with safe_open(_weights_file(folder), "pt") as opened:
            shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, error) from error
    return sum(math.prod(shape) for shape in shapes)


def read_adapter(folder: str) -> Adapter:
    """The configuration of an adapter, checked.

    Raises
    ------
    ImportError
        When peft is not installed.
    ValueError
        When the folder holds no adapter of weights in safetensors, or one with settings
        that are not supported.
    """
    told = _read_config(folder)
    _weights_file(folder)
    if importlib.util.find_spec("peft") is None:
        raise ImportError(
            f"the adapter in {folder} needs peft: pip install 'braidbandit[adapters]'; "
            "or merge it into its base elsewhere and use that folder as a strand"
        )
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(told["peft_type"])]
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(kind)
    }
    _check_settings(folder, told, defaults)
    known = {k: told[k] for k in told if k in defaults and k != "peft_type"}
    try:
        config = kind(**known)
    except Exception as error:  # whatever the kind's own checks raise
        raise ValueError(
            f"the {CONFIG} in {folder} is none of a {kind.__name__}: {error}"
        ) from error
    heeded = {
        key: sorted(value, key=str) if isinstance(value, list) else value
        for key, value in told.items()
        if key in _HEEDED and value is not None and value not in (False, [], {})
    }
    text = json.dumps(heeded, sort_keys=True)
    return Adapter(folder, told.get("base_model_name_or_path"), config, text)


def _check_settings(
    folder: str, told: dict[str, Any], defaults: dict[str, Any]
) -> None:
    """Refuse settings that would be passed over, or change more than the adapter."""
    odd = sorted(
        key
        for key, value in told.items()
        if key not in _ASIDE and value and value != defaults.get(key)
        if key not in _HEEDED or key not in defaults
    )
    if odd:
        raise ValueError(
            f"the adapter in {folder} sets {', '.join(f'{k}={told[k]!r}' for k in odd)}"
            f", which is not supported; {_MERGE_IT}"
        )
    for key in ("init_lora_weights", "init_weights", "init_ia3_weights"):
        if told.get(key, True) not in _STARTS:
            raise ValueError(
                f"the adapter in {folder} has {key}={told[key]!r}, which changes the "
                "base's own weights; save it as plain LoRA "
                "(path_initial_model_for_weight_conversion of peft's save_pretrained), "
                f"or {_MERGE_IT}"
            )


def adapted(model: Any, adapter: Adapter, base: str, tokenizer: Any) -> Any:
    """A twin of a model with an adapter on it; the model stays as it is.

    Parameters
    ----------
    model : PreTrainedModel
        The base, as it was loaded: without the hooks of a strand.
    adapter : Adapter
    base : str
        What a person calls the base, for messages.
    tokenizer : PreTrainedTokenizerFast
        Of the base.

    Raises
    ------
    ValueError
        When the adapter does not fit the base.
    """
    from peft.functional import (
        get_peft_model_state_dict,
        inject_adapter_in_model,
        set_peft_model_state_dict,
    )

    tensors = _own_tensors(adapter, base, model)
    _check_tokens(adapter, base, tokenizer)
    # peft fills new weights at random first, and notes things in what it is given.
    with torch.random.fork_rng([]):
        try:
            made: Any = inject_adapter_in_model(
                copy.deepcopy(adapter.config), twin(model), _NAME
            )
        except Exception as error:  # no such layers, or shapes that cannot be adapted
            raise _unfit(adapter, base, str(error)) from error
    room = get_peft_model_state_dict(
        made, adapter_name=_NAME, save_embedding_layers=False
    )
    _check_shapes(adapter, base, tensors, room)
    set_peft_model_state_dict(made, tensors, _NAME)
    try:
        _unwrap(made)
    except Exception as error:  # a head that cannot take its change in
        raise _unfit(adapter, base, str(error)) from error
    if adapter.base not in (None, base):
        _LOG.info("%s was trained on %s, is on %s", adapter.folder, adapter.base, base)
    return made


def _read_config(folder: str) -> dict[str, Any]:
    """What stands in an adapter's configuration, of a kind that is supported."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(
            f"no {CONFIG} in {folder!r}; expected the folder of an adapter, as peft's "
            "save_pretrained writes it (one from a hub has to be downloaded first)"
        )
    try:
        told = json.loads(path.read_text("utf-8"))
        kind = str(told["peft_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read {path}: {type(error).__name__}: {error}; copy the adapter "
            "again, or save it again"
        ) from error
    if kind in _PROMPTS:
        raise ValueError(
            f"the adapter in {folder} is of the kind {kind}, which puts tokens before "
            f"the text and changes no weights; expected one of {KINDS}"
        )
    if kind not in KINDS:
        raise ValueError(
            f"the adapter in {folder} is of the kind {kind}; expected one of {KINDS}; "
            f"{_MERGE_IT}"
        )
    return told


def _weights_file(folder: str) -> Path:
    path = Path(folder) / WEIGHTS
    if path.is_file():
        return path
    pickles = [name for name in _PICKLES if (Path(folder) / name).is_file()]
    if pickles:
        raise ValueError(
            f"the adapter in {folder} has its weights in {pickles[0]}, a pickle, which "
            f"may run code; save it again with safe_serialization=True, as {WEIGHTS}"
        )
    raise ValueError(f"no {WEIGHTS} in {folder}; give all files of the adapter")


def _tensors(folder: str) -> dict[str, Tensor]:
    try:
        tensors = load_file(_weights_file(folder))
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, error) from error
    odd = [
        key
        for key, tensor in tensors.items()
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all())
    ]
    if odd:
        raise ValueError(
            f"the adapter in {folder} has weights that are no numbers, in {odd[0]} "
            f"({len(odd)} tensors); train it again with a lower rate"
        )
    return tensors


def _own_tensors(adapter: Adapter, base: str, model: Any) -> dict[str, Tensor]:
    """The weights of an adapter by name, but for copies of the base's beside them.

    Raises ValueError where some of the base's were changed.
    """
    theirs = dict(model.named_parameters(remove_duplicate=False))
    theirs |= {_behind(name): weight for name, weight in theirs.items()}
    tensors, changed = {}, []
    for key, tensor in _tensors(adapter.folder).items():
        name = key.removeprefix(_PREFIX)
        if name not in theirs or _is_kept(adapter, name):
            tensors[name] = tensor
        elif not torch.equal(tensor.to(theirs[name]), theirs[name]):
            changed.append(name)
    if changed:
        raise ValueError(
            f"the adapter in {adapter.folder} changes weights of its base itself "
            f"({', '.join(sorted(changed)[:3])}), as one with another vocabulary or "
            f"trained biases does; all that stands on {base!r} shares these: "
            f"{_MERGE_IT}"
        )
    return tensors


def _behind(name: str) -> str:
    """What a weight of the base is called where a layer of an adapter is around it."""
    module, _, what = name.rpartition(".")
    return f"{module}.base_layer.{what}"


def _check_tokens(adapter: Adapter, base: str, tokenizer: Any) -> None:
    """Refuse an adapter that came with other tokens than its base has."""
    file = Path(adapter.folder) / "tokenizer.json"
    if not file.is_file():
        return
    try:
        theirs = Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # the reader raises this kind itself
        raise ValueError(f"cannot read {file}: {error}; remove it") from error
    if theirs != tokenizer.get_vocab():
        raise ValueError(
            f"the adapter in {adapter.folder} has a tokenizer of its own, whose tokens "
            f"are not those of {base!r}; remove its tokenizer.json if the base's "
            f"tokens are all it needs, or {_MERGE_IT}"
        )


def _is_kept(adapter: Adapter, name: str) -> bool:
    """Whether a weight is of a module that was saved whole, beside the base's."""
    kept = adapter.config.modules_to_save or ()
    return any(f".{module}." in f".{name}" for module in kept)


def _check_shapes(
    adapter: Adapter, base: str, tensors: dict[str, Tensor], room: dict[str, Tensor]
) -> None:
    """Refuse an adapter whose weights are not those that the base has room for."""
    room = {key.removeprefix(_PREFIX): tensor for key, tensor in room.items()}
    for name in sorted(set(tensors) & set(room)):
        found, wanted = tuple(tensors[name].shape), tuple(room[name].shape)
        if found != wanted:
            why = f"{name} is {found}, the base has room for {wanted}"
            if _is_kept(adapter, name):
                why += f" (if it has another vocabulary, {_MERGE_IT})"
            raise _unfit(adapter, base, why)
    over, lacks = sorted(set(tensors) - set(room)), sorted(set(room) - set(tensors))
    if over:
        why = f"the base has no place for {over[0]} ({len(over)} such tensors)"
        raise _unfit(adapter, base, why)
    if lacks:
        why = f"there is no {lacks[0]} in it ({len(lacks)} such tensors)"
        raise _unfit(adapter, base, why)


def _unwrap(model: Any) -> None:
    """Put modules that were saved whole, and the head, in place as plain modules.

    Rows of the head are read one by one where fusers are trained, so that a change of
    the head is taken into a head of its own.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    head = model.get_output_embeddings()
    for name, module in [*model.named_modules()]:
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[_NAME])
        elif module is head and isinstance(module, BaseTunerLayer):
            own: Any = copy.deepcopy(module)
            own.merge(safe_merge=True)
            model.set_submodule(name, own.get_base_layer())


def _unfit(adapter: Adapter, base: str, why: str) -> ValueError:
    named = f" (it names {adapter.base!r} as its base)" if adapter.base else ""
    return ValueError(
        f"the adapter in {adapter.folder} does not fit {base!r}: {why}{named}; give "
        "the base that it was trained on as the source"
    )


def _damaged(folder: str, error: Exception) -> ValueError:
    return ValueError(
        f"cannot read {WEIGHTS} in {folder}: {error}; the file is damaged: copy the "
        "adapter again, or save it again"
    )
