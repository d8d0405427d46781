"""Profiles: what was measured of a model on one machine, for costs and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from braidbandit._checks import as_float

ENGINES = ("llama.cpp", "transformers")


@dataclass(frozen=True)
class Profile:
    """What was measured of one model on one machine; see :func:`braidbandit.profile`.

    Parameters
    ----------
    engine : {"llama.cpp", "transformers"}
        What ran it.
    dtype : str
        Numbers that it computed with, such as "float32".
    prompt_tokens_per_s : float
        Of a prompt that is read at once, without the head.
    body_seconds, head_seconds : float
        For one token that is written: up to the states after the final norm, and from
        these to logits.
    fusing_seconds : float
        What a token takes beside these in a braid of this model that is fed its own
        states; at least 0, as are the next two.
    mixing_seconds : float
        What a token takes more where the model's distribution is mixed with others.
    load_seconds : float
        To load it, its file being in the system's memory.
    memory : int
        Bytes that a process takes more with it: its weights, its tokenizer, and what
        llama.cpp keeps for logits.
    layered : Profile or dict, optional
        The same of the strand that braids fused at decoder layers load, where that is
        another one: llama.cpp does not show these layers.

    Raises
    ------
    ValueError, TypeError
        On a number that is not one, or not above 0.

    Examples
    --------
    >>> print(Profile("llama.cpp", "float32", 350.0, 0.009, 0.011, 0.001, 0.004, 0.3,
    ...               250_000_000))
    llama.cpp, float32: reads 350 tokens/s, writes 50.0 tokens/s (body 9.00 ms, ...
    """

    engine: str
    dtype: str
    prompt_tokens_per_s: float
    body_seconds: float
    head_seconds: float
    fusing_seconds: float
    mixing_seconds: float
    load_seconds: float
    memory: int
    layered: Profile | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(
                f"engine of a profile is one of {ENGINES}, received {self.engine!r}"
            )
        for key in _NUMBERS:
            value = getattr(self, key)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number:
                raise TypeError(f"{key} of a profile is a number, received {value!r}")
            least = key in _FROM_ZERO
            finite = as_float(value) < math.inf
            if not (finite and (value > 0 or (least and value == 0))):
                raise ValueError(
                    f"{key} of a profile is {'at least' if least else 'above'} 0 and "
                    f"finite, received {value!r}"
                )
        if self.layered is not None:
            object.__setattr__(self, "layered", Profile.read(self.layered))

    @classmethod
    def read(cls, profile: Any) -> Profile:
        """Return a profile, or what :meth:`to_dict` made of one.

        Raises
        ------
        TypeError
            When it is neither.
        KeyError
            On an unknown or a missing key.
        """
        if isinstance(profile, cls):
            return profile
        if not isinstance(profile, Mapping):
            raise TypeError(
                "a profile is a Profile or a dict, as braidbandit.profile gives them; "
                f"received {profile!r}"
            )
        known = [field.name for field in fields(cls)]
        needed = {name for name in known if name != "layered"}
        if not needed <= set(profile) <= set(known):
            raise KeyError(
                f"a profile has the keys {known}, received {sorted(profile)}"
            )
        return cls(**profile)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    def at_layers(self) -> Profile:
        """Return the profile of the strand that shows its decoder layers.

        Raises
        ------
        ValueError
            When it was not measured.
        """
        if isinstance(self.layered, Profile):
            return self.layered
        if self.engine == "transformers":
            return self
        raise ValueError(
            "a braid fused at decoder layers has a model of which only what llama.cpp "
            "runs was measured; measure the other too: profile(pool, layers=True)"
        )

    @property
    def tokens_per_s(self) -> float:
        """Tokens that the model alone writes in a second."""
        return 1.0 / (self.body_seconds + self.head_seconds)

    def __str__(self) -> str:
        return (
            f"{self.engine}, {self.dtype}: reads {self.prompt_tokens_per_s:.0f} "
            f"tokens/s, writes {self.tokens_per_s:.1f} tokens/s (body "
            f"{1000 * self.body_seconds:.2f} ms, head {1000 * self.head_seconds:.2f} "
            f"ms), {self.memory / 1e6:.0f} MB, loaded in {self.load_seconds:.1f} s"
        )


_FROM_ZERO = ("fusing_seconds", "mixing_seconds", "load_seconds")
_NUMBERS = (
    "prompt_tokens_per_s",
    "body_seconds",
    "head_seconds",
    *_FROM_ZERO,
    "memory",
)
