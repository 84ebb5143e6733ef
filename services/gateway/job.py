"""A request that is ready to run."""

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
    key: str
    """Name of the key that it came with."""
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
