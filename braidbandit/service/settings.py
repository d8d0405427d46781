"""The settings of the service: what ``braid.toml`` holds."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from braidbandit.catalogue.cards import ModelCard, check_names

__all__ = [
    "KEY_VARIABLE",
    "CatalogueSettings",
    "KeySettings",
    "LearningSettings",
    "OpenWebUISettings",
    "Role",
    "ServerSettings",
    "ServiceSettings",
    "is_loopback",
]

Role = Literal["generate", "feedback", "admin"]
# A key that may do everything, for containers; it is never written anywhere.
KEY_VARIABLE = "BRAIDBANDIT_KEY"
_PREFIX = "BRAIDBANDIT_"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    """A table of the file: a key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CatalogueSettings(_Section):
    """Which braids of the pool to choose from; as :meth:`Catalogue.build` takes them.

    Attributes
    ----------
    layer_sets, strategies : list of str, optional
    shares : list of list of float, optional
    """

    layer_sets: list[str] | None = None
    strategies: list[str] | None = None
    shares: list[tuple[float, ...]] | None = None


class LearningSettings(_Section):
    """How it learns, and where what it learnt is kept.

    Attributes
    ----------
    folder : Path
        Of the agent. One that is not absolute is beside the file of the settings.
    price : float, optional
        Quality given up to go from the dearest arm to the cheapest.
    compute_budget : float
        From 0, the cheapest arms only, to 1, all.
    keep_text : bool
        Keep the text of tasks in the ledger.
    random_state : int, optional
    encoder : str, optional
        What reads tasks: a model of sentence-transformers, or "words", which needs
        none. By default that of the folder, else a small packaged one.
    dtype : str, optional
        "float32" or "bfloat16".
    calibration_texts : Path, optional
        A file of JSON lines, each a text or a dict with "prompt" and "reference".
    """

    folder: Path = Path("braid")
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    compute_budget: float = Field(default=1.0, ge=0, le=1)
    keep_text: bool = False
    random_state: int | None = Field(default=None, ge=0)
    encoder: str | None = Field(default=None, min_length=1)
    dtype: Literal["float32", "bfloat16"] | None = None
    calibration_texts: Path | None = None


class ServerSettings(_Section):
    """Where it listens, and what it lets in.

    Attributes
    ----------
    host : str
        Another than the loopback address needs a key.
    port : int
        0 takes a free one.
    hosts, origins : list of str
        More names under which the service is called, such as "braids.lan", and more
        origins whose pages may call it, such as "http://braids.lan:3000".
    queue : int
        Requests that may wait; one more gets 429.
    batch : int
        Most requests that one model answers at a time.
    deadline_seconds : float
        For a whole answer, unless a request says less.
    default_tokens, most_tokens : int
        Written where a request does not say how many; and at most.
    most_bytes : int
        Of a request.
    requests_per_minute, feedback_per_hour : int
        Of one key, or of all who have none; 0 for no limit.
    changes_per_decision : int
        How often the reward of one decision may be given, revised or taken back.
    calibrate : bool
        Calibrate braids in the background; else they are not chosen until the command
        line has calibrated them.
    shutdown_seconds : float
        For answers that are being written when the service is told to stop.
    prompts_logged : bool
        Write prompts and answers to the log.
    log_level : str
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    hosts: list[str] = []
    origins: list[str] = []
    queue: int = Field(default=64, ge=1, le=10_000)
    batch: int = Field(default=8, ge=1, le=256)
    deadline_seconds: Seconds = 300.0
    default_tokens: int = Field(default=512, ge=1)
    most_tokens: int = Field(default=4096, ge=1)
    most_bytes: int = Field(default=2_000_000, ge=1000)
    requests_per_minute: int = Field(default=0, ge=0)
    feedback_per_hour: int = Field(default=1000, ge=0)
    changes_per_decision: int = Field(default=10, ge=1)
    calibrate: bool = True
    shutdown_seconds: Seconds = 30.0
    prompts_logged: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class KeySettings(_Section):
    """One key, of which only the hash is kept; ``new_key`` and ``hash_key`` make both.

    Attributes
    ----------
    name : str
        Shown in logs and counters.
    hash : str
        "sha256:" and 64 hexadecimal digits.
    roles : list of {"generate", "feedback", "admin"}
        "admin" may do everything.
    """

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", repr=False)
    roles: list[Role] = Field(min_length=1)


class OpenWebUISettings(_Section):
    """Where ratings are fetched from.

    Attributes
    ----------
    url : str
        Of Open WebUI, such as ``http://127.0.0.1:3000``.
    poll_seconds : float
        Between two looks.
    key_env : str
        The environment variable that holds the key of an administrator there.
    """

    url: str = Field(pattern=r"^https?://[^@\s]+$")
    poll_seconds: Seconds = 60.0
    key_env: str = Field(default="OPENWEBUI_API_KEY", pattern=r"^[A-Za-z_]\w*$")


class ServiceSettings(BaseSettings):
    """Everything that the service is told; read from a TOML file.

    What the environment says goes before the file: ``BRAIDBANDIT_SERVER__PORT=9000``.

    Attributes
    ----------
    pool : list of dict
        As :class:`ModelCard` takes them: model_name, domain, source, endpoint, price...
        A source or adapter that is a path is looked for beside the file first.
    catalogue : CatalogueSettings
    learning : LearningSettings
    server : ServerSettings
    keys : list of KeySettings
        Without one, everybody who reaches the service may do everything.
    openwebui : OpenWebUISettings, optional

    Raises
    ------
    ValueError
        On a key that is not known, a value out of its range, a card that is refused,
        and an address that others reach without a key.

    Examples
    --------
    >>> price = {"input": 0.0, "output": 0.0}
    >>> url = "http://127.0.0.1:11434/v1"
    >>> pool = [{"model_name": "qwen3-8b", "endpoint": url, "price": price}]
    >>> ServiceSettings(pool=pool).server.port
    8321
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
    )

    pool: list[dict[str, Any]] = Field(min_length=1)
    catalogue: CatalogueSettings = CatalogueSettings()
    learning: LearningSettings = LearningSettings()
    server: ServerSettings = ServerSettings()
    keys: list[KeySettings] = []
    openwebui: OpenWebUISettings | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what is given or read from the file."""
        return env_settings, init_settings

    @classmethod
    def read(cls, path: str | Path) -> ServiceSettings:
        """Read a TOML file.

        Raises
        ------
        FileNotFoundError
            When there is none; ``braidbandit init`` writes one.
        ValueError
            When it is no TOML, or as for the class; every mistake has a line.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}; write one with `braidbandit init`"
            )
        try:
            found = TomlConfigSettingsSource(cls, path)()
        except ValueError as error:
            raise ValueError(f"{path} is no TOML: {error}") from error
        try:
            return cls(**_beside(found, path.absolute().parent))
        except ValidationError as error:
            raise ValueError(f"{path}: {_said(error)}") from None

    @field_validator("pool")
    @classmethod
    def _check_cards(cls, pool: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names: list[str] = []
        for card in pool:
            try:
                names.append(ModelCard.from_dict(card).name)
            except (KeyError, TypeError) as error:
                raise ValueError(str(error.args[0])) from None
        check_names(names)
        return pool

    @model_validator(mode="after")
    def _check_address(self) -> ServiceSettings:
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError(f"names of keys must differ, received {names}")
        open_to_all = not self.keys and not os.environ.get(KEY_VARIABLE)
        if open_to_all and not is_loopback(self.server.host):
            raise ValueError(
                f"server.host is {self.server.host!r}, which others reach, and there "
                "is no key; add a [[keys]] entry of a key of at least 32 characters, "
                f"set {KEY_VARIABLE}, or listen at 127.0.0.1"
            )
        if self.server.default_tokens > self.server.most_tokens:
            raise ValueError(
                f"server.default_tokens is {self.server.default_tokens}, more than "
                f"server.most_tokens, {self.server.most_tokens}"
            )
        return self

    @property
    def cards(self) -> list[ModelCard]:
        """The pool as cards."""
        return [ModelCard.from_dict(card) for card in self.pool]


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _beside(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a file says, with its paths seen from the folder it is in."""
    said = dict(found)
    pool, learning = said.get("pool"), said.get("learning")
    if isinstance(pool, list):
        said["pool"] = [_card_beside(card, folder) for card in pool]
    learning = dict(learning) if isinstance(learning, dict) else {}
    learning.setdefault("folder", "braid")
    for key in ("folder", "calibration_texts"):
        if isinstance(learning.get(key), str):
            learning[key] = str(folder / Path(learning[key]).expanduser())
    if "learning" not in said or isinstance(said["learning"], dict):
        said["learning"] = learning
    return said


def _card_beside(card: Any, folder: Path) -> Any:
    if not isinstance(card, dict) or "endpoint" in card:
        return card
    found = dict(card)
    for key in ("source", "adapter"):
        value = found.get(key)
        if isinstance(value, str) and value and "://" not in value:
            path = folder / Path(value).expanduser()
            if path.exists():
                found[key] = str(path)
    return found


def _said(error: ValidationError) -> str:
    """Every mistake in a line, without the values: one may be a secret."""
    lines = []
    for mistake in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in mistake["loc"]) or "settings"
        unknown = mistake["type"] == "extra_forbidden"
        what = "is no key that is known" if unknown else mistake["msg"]
        what = what.removeprefix("Value error, ")
        lines.append(f"{where}: {what}")
    return "; ".join(lines)
