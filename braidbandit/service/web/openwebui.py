"""Ratings that people give in Open WebUI, fetched now and then and learnt."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2

from braidbandit.service.errors import ApiError
from braidbandit.service.service import Service
from braidbandit.service.settings import OpenWebUISettings

_LOG = logging.getLogger(__name__)
_EXPORT = "/api/v1/evaluations/feedbacks/all/export"
_PATIENCE = 60.0
_SOURCE = "openwebui"
# Open WebUI asks for details on a scale up to this.
_MOST = 10


class Rating(NamedTuple):
    """What somebody said of a message.

    Attributes
    ----------
    key : str
        ``{chat_id}:{message_id}``.
    chat, message : str
    reward : float, optional
        None where it was taken back.
    text : str, optional
        Of the message.
    """

    key: str
    chat: str
    message: str
    reward: float | None
    text: str | None


class Poller:
    """Fetches ratings and lets the service learn them.

    Parameters
    ----------
    service : Service
    settings : OpenWebUISettings
    key : str
        Of an administrator there.
    """

    def __init__(self, service: Service, settings: OpenWebUISettings, key: str) -> None:
        self._service, self._settings, self._key = service, settings, key

    def __repr__(self) -> str:
        return f"<Poller of {self._settings.url}>"

    @classmethod
    def of(cls, service: Service) -> Poller | None:
        """Return the poller of a service; None where it has no Open WebUI."""
        settings = service.settings.openwebui
        if settings is None:
            return None
        key = os.environ.get(settings.key_env, "").strip()
        if not key:
            _LOG.warning(
                "ratings are not fetched from Open WebUI: the environment variable "
                "%s is not set",
                settings.key_env,
            )
            return None
        return cls(service, settings, key)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except (httpx2.HTTPError, ValueError) as error:
                _LOG.warning("Open WebUI gave no ratings: %s", type(error).__name__)
                self._service.live.note_feedback("poll", "failed")
            await asyncio.sleep(self._settings.poll_seconds)

    async def look(self) -> dict[str, int]:
        """Fetch all ratings once, and learn what is new.

        Returns
        -------
        dict of str to int
            How many were "learnt", "revised", "retracted", "known", "ignored",
            "refused" and "unmatched".

        Raises
        ------
        httpx2.HTTPError, ValueError
            When Open WebUI is not there, or answers something else.
        """
        headers = {"Authorization": f"Bearer {self._key}"}
        address = self._settings.url.rstrip("/") + _EXPORT
        async with httpx2.AsyncClient(timeout=_PATIENCE) as client:
            answer = await client.get(address, headers=headers)
        answer.raise_for_status()
        entries = await asyncio.to_thread(json.loads, answer.content)
        if not isinstance(entries, list):
            raise ValueError("an export of feedback is a list")
        found: dict[str, int] = {}
        for entry in entries:
            rating = rating_of(entry)
            result = "ignored" if rating is None else await self._learn(rating)
            found[result] = found.get(result, 0) + 1
            if result != "known":
                self._service.live.note_feedback("openwebui", result)
        return found

    async def _learn(self, rating: Rating) -> str:
        service = self._service
        memory, signal = service.memory, f"{_SOURCE}:{rating.key}"
        said, before = json.dumps(rating.reward), memory.said(f"{_SOURCE}:{rating.key}")
        if said == before or (before is None and rating.reward is None):
            return "known"
        decision = memory.of_message(rating.chat, rating.message)
        if decision is None and rating.text:
            decision = memory.of_text(service.signer.fingerprint(rating.text.strip()))
        if decision is None:
            memory.note_signal(signal, None, said)
            return "unmatched"
        try:
            if rating.reward is None:
                result: str = await service.retract(decision)
            else:
                result = await service.reward(decision, rating.reward, _SOURCE)
        except ApiError as error:
            if error.status in (429, 503):
                return "later"
            _LOG.warning(
                "a rating is not learnt: %s", error, extra={"decision": decision}
            )
            result = "refused"
        memory.note_signal(signal, decision, said)
        return result


def rating_of(entry: Any) -> Rating | None:
    """Read an entry of an export; None where it is no rating of a message.

    Examples
    --------
    >>> entry = {"type": "rating", "data": {"rating": 1},
    ...          "meta": {"chat_id": "c", "message_id": "m"}}
    >>> rating_of(entry)
    Rating(key='c:m', chat='c', message='m', reward=1.0, text=None)
    """
    if not isinstance(entry, Mapping) or entry.get("type") != "rating":
        return None
    data, meta = _mapping(entry.get("data")), _mapping(entry.get("meta"))
    chat, message = meta.get("chat_id"), meta.get("message_id")
    if not isinstance(chat, str) or not isinstance(message, str):
        return None
    reward = _reward_of(data)
    if reward is None and data.get("rating") is not None:
        return None
    text = _text_of(_mapping(entry.get("snapshot")), message)
    return Rating(f"{chat}:{message}", chat, message, reward, text)


def _reward_of(data: Mapping[str, Any]) -> float | None:
    """A thumb, or how many of ten where somebody said so."""
    thumb = str(data.get("rating"))
    if thumb not in ("1", "-1"):
        return None
    detailed = _mapping(data.get("details")).get("rating")
    if isinstance(detailed, int) and 1 <= detailed <= _MOST:
        return (detailed - 1) / (_MOST - 1)
    return float(thumb == "1")


def _text_of(snapshot: Mapping[str, Any], message: str) -> str | None:
    """The text of a message in the chat that is kept with a rating."""
    kept: Any = snapshot
    for key in ("chat", "chat", "history", "messages", message):
        kept = _mapping(kept).get(key)
    text = _mapping(kept).get("content")
    return text if isinstance(text, str) and text.strip() else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
