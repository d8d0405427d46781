"""Keys: made here, kept as hashes, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from braidbandit.service.settings import KEY_VARIABLE, KeySettings, Role

SHORTEST = 32
_SCHEME = "sha256:"


class Caller(NamedTuple):
    """Who asks.

    Attributes
    ----------
    name : str
        Of the key; "local" where none is needed.
    roles : frozenset of str
    """

    name: str
    roles: frozenset[str]

    def may(self, role: Role) -> bool:
        """Whether a role is among the caller's; "admin" is every role."""
        return bool(self.roles & {role, "admin"})


LOCAL = Caller("local", frozenset({"admin"}))


class Keys:
    """The keys that are let in.

    Parameters
    ----------
    known : iterable of KeySettings
        One more is taken from the environment, ``BRAIDBANDIT_KEY``, where it is set.

    Raises
    ------
    ValueError
        When the key in the environment is too short.

    Examples
    --------
    >>> key = new_key()
    >>> entry = KeySettings(name="desk", hash=hash_key(key), roles=["generate"])
    >>> Keys([entry]).caller(key)
    Caller(name='desk', roles=frozenset({'generate'}))
    >>> Keys([entry]).caller(key + "x") is None
    True
    """

    def __init__(self, known: Iterable[KeySettings]) -> None:
        self._known = [
            (key.hash, Caller(key.name, frozenset(key.roles))) for key in known
        ]
        extra = os.environ.get(KEY_VARIABLE)
        if extra:
            caller = Caller("environment", frozenset({"admin"}))
            self._known.append((hash_key(extra), caller))

    def __bool__(self) -> bool:
        return bool(self._known)

    def __repr__(self) -> str:
        return f"<Keys of {[caller.name for _, caller in self._known]}>"

    def caller(self, key: str | None) -> Caller | None:
        """Return whose key it is, or None; without any known key, everybody is local.

        All hashes are compared to their ends, so that time tells nothing.
        """
        if not self._known:
            return LOCAL
        if key is None or len(key) < SHORTEST:
            return None
        found, hashed = None, _hashed(key)
        for known, caller in self._known:
            if hmac.compare_digest(known, hashed):
                found = caller
        return found


def new_key() -> str:
    """Return a new key of 43 characters behind "bb-", to be shown once.

    Examples
    --------
    >>> len(new_key())
    46
    """
    return f"bb-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """Return the hash of a key, as ``[[keys]]`` in ``braid.toml`` has it.

    Raises
    ------
    ValueError
        When it has fewer than 32 characters.
    """
    if len(key) < SHORTEST:
        raise ValueError(
            f"a key has at least {SHORTEST} characters, this one {len(key)}; let "
            "new_key() make one"
        )
    return _hashed(key)


def _hashed(key: str) -> str:
    # Keys are long and random: a slow hash would protect nothing more.
    return _SCHEME + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
