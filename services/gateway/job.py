"""A request that is ready to run, and what a worker says about it."""

from dataclasses import dataclass

from services.gateway.limits.limiter import Pool, PoolKind
from services.gateway.request import Sampling
from services.gateway.routes import Target


@dataclass(frozen=True)
class Job:
    """A request with its prompt encoded and every field checked and filled in."""

    request_id: str
    """The server's."""
    client_request_id: str
    account: str
    target: Target
    prompt: tuple[int, ...]
    max_tokens: int
    """The most that it can produce, over all choices."""
    sampling: Sampling
    """With max_tokens and seed set."""

    @property
    def pool(self) -> Pool:
        """Where it counts."""
        kind = PoolKind.BASE if self.target.adapter is None else PoolKind.LORA
        return Pool(account=self.account, base_model=self.target.base.name, kind=kind)


@dataclass(frozen=True)
class Produced:
    """Something a worker produced, to be passed on as it is."""

    chunk: object
    """The edge's own message; nothing in between looks inside."""
    tokens: int


@dataclass(frozen=True)
class Choice:
    """How one choice ended."""

    index: int
    finish_reason: int
    """The edge's own enum value."""
    stop: str


@dataclass(frozen=True)
class Summary:
    """A worker's last word on a request."""

    choices: tuple[Choice, ...]
    cached_tokens: int
    completion_tokens: int
