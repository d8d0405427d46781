"""Tokens: which decisions this service made, so that only those are rated."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from braidbandit._files import write_atomic

VARIABLE = "BRAIDBANDIT_SIGNING_SECRET"
_FILE = "service.secret"
_BYTES = 32


class Signer:
    """Signs ids of decisions, and tells whether a token is of one.

    Parameters
    ----------
    secret : bytes
        Whoever has it can sign.

    Examples
    --------
    >>> signer = Signer(b"0" * 32)
    >>> token = signer.token("d1")
    >>> signer.signed("d1", token), signer.signed("d2", token), signer.signed("d1", "")
    (True, False, False)
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "<Signer>"

    @classmethod
    def of_folder(cls, folder: Path) -> Signer:
        """Return the signer of an agent's folder, whose tokens outlive the process.

        The secret is what ``BRAIDBANDIT_SIGNING_SECRET`` holds; else a random one in a
        file of the folder that only its owner may read, beside the ledger that it
        protects.
        """
        given = os.environ.get(VARIABLE, "")
        if given:
            if len(given) < _BYTES:
                raise ValueError(
                    f"{VARIABLE} has {len(given)} characters; give at least {_BYTES}"
                )
            return cls(hashlib.sha256(given.encode()).digest())
        file = folder / _FILE
        if not file.exists():
            write_atomic(file, secrets.token_bytes(_BYTES))
        secret = file.read_bytes()
        if len(secret) < _BYTES:
            raise ValueError(
                f"{file} is damaged: it has {len(secret)} bytes. Remove it; answers "
                "that were given before can then no longer be rated"
            )
        return cls(secret)

    def token(self, decision_id: str) -> str:
        """Return the token of a decision."""
        return self._digest(f"decision:{decision_id}")

    def signed(self, decision_id: str, token: str) -> bool:
        """Whether a token is of a decision; takes the same time for all."""
        given = token.encode("utf-8", "replace")
        return hmac.compare_digest(given, self.token(decision_id).encode())

    def fingerprint(self, text: str) -> str:
        """Return what a text can be found again by, and not be guessed from."""
        return self._digest(f"text:{text}")

    def _digest(self, text: str) -> str:
        data = text.encode("utf-8", "replace")
        digest = hmac.new(self._secret, data, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:24]).decode()
