"""What requests may say: their bodies, checked before anything is done."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Text = Annotated[str, Field(max_length=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_MOST_STOPS = 16

# Fields that say nothing about what is to be written.
HARMLESS = {
    "metadata",
    "user",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class _OpenBody(BaseModel):
    """Clients send more than is known here; what is not known is kept."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class Wishes(_Body):
    """What a request asks of the choice, in its field ``x_braidbandit``.

    Attributes
    ----------
    deadline_seconds : float, optional
        For the whole answer.
    compute_budget : float, optional
        From 0, the cheapest arms only, to 1, all.
    accuracy_target : float, optional
    preference : dict of str to float, optional
        What counts, such as ``{"quality": 1, "latency": 0.2}``.
    type, complexity, capabilities : optional
        Of the task, where the caller knows them.
    decision, token : str, optional
        Of a decision that ``/v1/recommend`` made: its arm answers.
    """

    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    compute_budget: Unit | None = None
    accuracy_target: Unit | None = None
    preference: (
        dict[Name, Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]] | None
    ) = Field(default=None, max_length=16)
    type: Name | None = None
    complexity: Unit | None = None
    capabilities: list[Name] | None = Field(default=None, max_length=64)
    decision: Name | None = None
    token: Name | None = None


class Message(_OpenBody):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """Its text; of several parts, those that are text."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        found = (part.get("text") for part in parts if part.get("type") == "text")
        return "\n".join(text for text in found if isinstance(text, str))

    @property
    def is_text(self) -> bool:
        """Whether it is nothing but text."""
        parts = self.content if isinstance(self.content, list) else []
        whole = all(
            part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in parts
        )
        extra = self.model_extra or {}
        return whole and not extra.get("tool_calls") and self.role != "tool"


class StreamOptions(_OpenBody):
    """How a streamed answer is sent."""

    include_usage: bool = False


class _Generation(_OpenBody):
    """What both kinds of generation take."""

    model: Name = "auto"
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=10**9)] | None = None
    min_p: Unit | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(max_length=1000)]
        | list[Annotated[str, Field(max_length=1000)]]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    user: Annotated[str, Field(max_length=1000)] | None = None
    metadata: dict[str, Any] | None = None
    x_braidbandit: Wishes | None = None

    @model_validator(mode="after")
    def _check_stops(self) -> _Generation:
        if len(self.stops) > _MOST_STOPS:
            raise ValueError(f"stop has at most {_MOST_STOPS} texts")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which writing ends."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in found if text)

    @property
    def wishes(self) -> Wishes:
        """What it asks of the choice."""
        return self.x_braidbandit or Wishes()

    @property
    def shows_usage(self) -> bool:
        """Whether a streamed answer ends with how many tokens there were."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(_Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None

    @property
    def most_tokens(self) -> int | None:
        """By whichever name it is given."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens


class CompletionBody(_Generation):
    """The body of ``/v1/completions``."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, value: Any) -> Any:
        if isinstance(value, list) and [type(text) for text in value] != [str]:
            raise ValueError(
                f"one prompt is taken, as text; received a list of {len(value)}: ask "
                "once for each"
            )
        return value

    @property
    def most_tokens(self) -> int | None:
        """As given."""
        return self.max_tokens

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class DecisionRef(_Body):
    """A decision of this service, with the token that came with its answer."""

    decision: Name
    token: Name


class FeedbackBody(_Body):
    """The body of ``/v1/feedback``: exactly one thing that is said of a decision.

    Attributes
    ----------
    decision, token : str
        As they came with the answer.
    reward : float
        From 0 to 1.
    stars : float
        From 0 to 5.
    thumbs : {"up", "down"}
    preferred_over : DecisionRef
        Another decision whose answer was worse, on the same task.
    strength : float
        How clearly it was better, above 0 and at most 1.
    retract : bool
        Take back what was said.
    revise : bool
        Replace what was said before, where it was something else.
    id : str
        Of the signal where it comes from; the same id again changes what it said.
    source : str
        Who judged.
    """

    decision: Name
    token: Name
    reward: Unit | None = None
    stars: Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)] | None = None
    thumbs: Literal["up", "down"] | None = None
    preferred_over: DecisionRef | None = None
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    retract: bool = False
    revise: bool = False
    id: Name | None = None
    source: Annotated[str, Field(pattern=r"^[\w.:-]{1,64}$")] = "user"

    @model_validator(mode="after")
    def _check_one(self) -> FeedbackBody:
        said = [
            name
            for name in ("reward", "stars", "thumbs", "preferred_over")
            if getattr(self, name) is not None
        ]
        said += ["retract"] if self.retract else []
        if len(said) != 1:
            raise ValueError(
                "give exactly one of reward, stars, thumbs, preferred_over and "
                f"retract; received {said or 'none'}"
            )
        return self

    @property
    def value(self) -> float | None:
        """What was said as a reward; None for a preference and a retraction."""
        if self.reward is not None:
            return self.reward
        if self.stars is not None:
            return self.stars / 5
        if self.thumbs is not None:
            return float(self.thumbs == "up")
        return None


class Task(_Body):
    """A task, as :meth:`MetaBraider.forward` takes it."""

    text: Text
    type: Name | None = None
    complexity: Unit | None = None
    capabilities: list[Name] | None = Field(default=None, max_length=64)


class RecommendBody(_Body):
    """The body of ``/v1/recommend``.

    Attributes
    ----------
    task : str or Task
    compute_budget, accuracy_target, preference : optional
        As in :class:`Wishes`.
    top : int
        How many arms to tell of.
    decide : bool
        Make a decision that can be acted on: its id and token go into
        ``x_braidbandit`` of a chat request.
    """

    task: Text | Task
    compute_budget: Unit | None = None
    accuracy_target: Unit | None = None
    preference: dict[Name, float] | None = Field(default=None, max_length=16)
    top: Annotated[int, Field(ge=1, le=100)] = 5
    decide: bool = False

    @model_validator(mode="after")
    def _check_preference(self) -> RecommendBody:
        weights = (self.preference or {}).values()
        if not all(math.isfinite(weight) for weight in weights):
            raise ValueError("the weights of preference are finite numbers")
        return self
