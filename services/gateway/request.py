"""What a client asks for, as the gateway's own values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class TextPrompt:
    """Plain text."""

    text: str
    field: ClassVar[str] = "text"


@dataclass(frozen=True)
class TokenPrompt:
    """Token ids, taken as they are."""

    ids: tuple[int, ...]
    field: ClassVar[str] = "tokens.ids"


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str
    """Its parts, joined in order."""
    name: str = ""
    """Tells speakers of one role apart; empty where the client gave none."""


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation, to be rendered with the chat template of the adapter's repo, or else the base's."""

    messages: tuple[ChatMessage, ...]
    field: ClassVar[str] = "chat.messages"


Prompt = TextPrompt | TokenPrompt | ChatPrompt
"""`field` is what errors call it, as in inference.proto."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; fields, defaults and ranges as in sampling.proto. None is unset."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool | None = None
    n: int | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """One call of Generate."""

    model: str
    prompt: Prompt | None
    """None where the client sent none."""
    sampling: Sampling
    client_request_id: str
