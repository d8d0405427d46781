"""Model cards: what is known about a language model before it is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Any

from braidbandit.catalogue.addresses import (
    Price,
    checked_endpoint,
    checked_variable,
)
from braidbandit.catalogue.profile import Profile

# What only a model has that is loaded here.
_OF_LOCAL = (
    "parameters",
    "layers",
    "width",
    "vocab_size",
    "quantisation",
    "adapter",
    "memory",
    "profile",
)
# Left out of a card's data where they say nothing, so that hashes stay what they were.
_OF_SERVED = ("endpoint", "price", "api_key_env")
_UNLESS_TOLD = (*_OF_SERVED, "adapter", "memory", "profile")


@dataclass(frozen=True)
class ModelCard:
    """What is known about one language model before it is loaded.

    Parameters
    ----------
    name : str
        The name used in braids, errors and explanations.
    source : str or Path, optional
        Hub id, folder or file to load from, kept as text. Defaults to ``name``.
    parameters : int, optional
        Number of weights, head included.
    layers, width, vocab_size : int, optional
        Decoder layers, width of the residual stream, size of the vocabulary.
    domain : str
        What the model is good at: "general", "code", "medical", ...
    role : str, optional
        Free text such as "reasoning".
    quantisation : str, optional
        Such as "q4_k_m", "q8_0", "bf16"; sets the bytes per weight.
    recency : str, optional
        Date or year of the model.
    licence : str, optional
    endpoint : str, optional
        URL of a server that speaks OpenAI's protocol and serves the model, such as
        ``http://127.0.0.1:11434/v1``. ``source`` is then what the server calls it, and
        nothing is loaded here. Where it answers is no part of what the model is: cards
        that differ in this are equal.
    price : dict or Price, optional
        Of a served model: money per million tokens, ``{"input": 0.5, "output": 1.5}``.
    api_key_env : str, optional
        Of a served model: the environment variable that holds the key. By default no
        key is sent, but to OpenAI the one in ``OPENAI_API_KEY``.
    adapter : str or Path, optional
        Folder of an adapter, such as LoRA, of the model at ``source``; kept as text.
    memory : int, optional
        Bytes of weights when it is loaded. By default estimated from ``parameters`` and
        ``quantisation``; an agent finds out what it will load.
    profile : Profile or dict, optional
        What was measured of the model, see :func:`braidbandit.profile`. How large and
        fast a model is on some machine is no part of what it is: cards that differ in
        these two are equal.

    Raises
    ------
    ValueError
        When there is no name or domain, a size is no whole number above 0, or what is
        said of a served model makes no sense: a size, no price, a URL with a password.
    TypeError
        When ``source``, ``quantisation`` or ``adapter`` is no text.

    Examples
    --------
    >>> ModelCard.from_dict({"model_name": "codellama-7b", "domain": "code"}).source
    'codellama-7b'
    """

    name: str
    source: str | PathLike[str] | None = None
    parameters: int | None = None
    layers: int | None = None
    width: int | None = None
    vocab_size: int | None = None
    domain: str = "general"
    role: str | None = None
    quantisation: str | None = None
    recency: str | None = None
    licence: str | None = None
    endpoint: str | None = field(default=None, compare=False)
    price: Price | Mapping[str, float] | None = None
    api_key_env: str | None = field(default=None, compare=False)
    adapter: str | PathLike[str] | None = None
    memory: int | None = field(default=None, compare=False)
    profile: Profile | Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(
                f"a model card needs a name, received {self.name!r}; "
                "expected text such as 'gemma-3-270m'"
            )
        if not isinstance(self.domain, str) or not self.domain:
            raise ValueError(f"domain of {self.name!r} must be text: {self.domain!r}")
        for key in ("parameters", "layers", "width", "vocab_size", "memory"):
            value = getattr(self, key)
            if value is not None and (
                not isinstance(value, int) or isinstance(value, bool) or value <= 0
            ):
                raise ValueError(
                    f"{key} of {self.name!r} must be a whole number above 0 or None, "
                    f"received {value!r}"
                )
        source = self.name if self.source is None else self.source
        if isinstance(source, PathLike):
            source = str(source)
        object.__setattr__(self, "source", source)
        if isinstance(self.adapter, PathLike):
            object.__setattr__(self, "adapter", str(self.adapter))
        for key in ("source", "quantisation", "adapter"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str):
                raise TypeError(
                    f"{key} of {self.name!r} is text or None, received {value!r}"
                )
        if "://" in str(self.source) and "@" in str(self.source):
            raise ValueError(
                f"source of {self.name!r} is a URL with a user or a password, which "
                "would end up in files; leave them out"
            )
        if self.profile is not None:
            object.__setattr__(self, "profile", Profile.read(self.profile))
        self._check_served()

    def _check_served(self) -> None:
        given = [key for key in _OF_SERVED if getattr(self, key) is not None]
        if self.endpoint is None:
            if given:
                raise ValueError(f"{self.name!r} has {given} but no endpoint; give one")
            return
        sized = [key for key in _OF_LOCAL if getattr(self, key) is not None]
        if sized:
            raise ValueError(
                f"{self.name!r} is served: its price is its cost, and {sized} would be "
                "ignored; leave them out"
            )
        endpoint = checked_endpoint(self.endpoint, self.name)
        checked_variable(self.api_key_env, self.name)
        object.__setattr__(self, "price", Price.read(self.price, self.name))
        object.__setattr__(self, "endpoint", endpoint)

    @property
    def is_served(self) -> bool:
        """Whether the model answers at a URL and is not loaded here."""
        return self.endpoint is not None

    @property
    def is_sized(self) -> bool:
        """Whether it is known what the model costs."""
        return self.parameters is not None or self.is_served

    @property
    def has_memory(self) -> bool:
        """Whether it is known how many bytes the model takes; a served one none."""
        return not (self.memory is None and self.profile is None) or self.is_sized

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> ModelCard:
        """Build a card from a pool dict; ``model_name`` is read as ``name``.

        Raises
        ------
        KeyError
            On an unknown key, or when no name is given.
        """
        values = dict(card)
        if "model_name" in values:
            if "name" in values:
                raise KeyError("give 'model_name' or 'name', not both")
            values["name"] = values.pop("model_name")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise KeyError(
                f"unknown model card keys {unknown}; known keys are "
                f"{['model_name', *known]}"
            )
        if "name" not in values:
            raise KeyError(
                f"a model card needs 'model_name', received {sorted(values)}"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-able data; of a local model, no served one's.

        The adapter only where there is one: other catalogues keep their hash. So are
        memory and profile.
        """
        values = asdict(self)
        unused = [key for key in _UNLESS_TOLD if values[key] is None]
        return {key: value for key, value in values.items() if key not in unused}


def as_cards(pool: Iterable[ModelCard | Mapping[str, Any] | str]) -> list[ModelCard]:
    """Return the cards of a pool; one model in place of a list is a TypeError."""
    if isinstance(pool, str | Mapping | ModelCard):
        raise TypeError(
            f"a pool is a list of models, received one ({type(pool).__name__}); wrap "
            "it: [model]"
        )
    return [_as_card(entry) for entry in pool]


def check_names(names: Iterable[str]) -> None:
    """Refuse models of which two have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"model names must differ, received more than one {twice[0]!r}; give each "
            "model once, or another name"
        )


def _as_card(entry: ModelCard | Mapping[str, Any] | str) -> ModelCard:
    if isinstance(entry, ModelCard):
        return entry
    if isinstance(entry, str):
        return ModelCard(entry)
    if isinstance(entry, Mapping):
        return ModelCard.from_dict(entry)
    raise TypeError(
        f"a pool holds ModelCard, dict or name, received {type(entry).__name__}"
    )
