"""What a deployment is. Values only; `lifecycle` says how one becomes the next."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cached_property

from services.common.adapters.version import digest_of
from services.common.errors import ServiceError


class State(Enum):
    """As the API names them; the values are stored."""

    INITIALIZING = "INITIALIZING"
    """Its adapter is being checked on the Hub."""
    DEPLOYING = "DEPLOYING"
    """A worker loads it, or none is there yet."""
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    DELETED = "DELETED"


@dataclass(frozen=True)
class Failure:
    """Why a deployment, or its last update, failed."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: ServiceError) -> "Failure":
        """What an error tells a deployment's owner; as bounded as the error is."""
        return cls(error.reason, error.message, error.metadata)


@dataclass(frozen=True)
class RepoExtras:
    """What an adapter's repo brings beside the adapter, and is honoured; pinned with the version."""

    chat_template: str = ""
    """Jinja; empty where the repo has none."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """What the template knows by name; empty where there is no template."""
    end_token_ids: tuple[int, ...] = ()
    """That end a turn, beside the base's; in order."""

    @cached_property
    def sha256(self) -> str:
        """Names the content; empty where there is none."""
        if not (self.chat_template or self.end_token_ids):
            return ""
        tokens = sorted(self.special_tokens.items())
        content = json.dumps([self.chat_template, tokens, self.end_token_ids])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class AdapterVersion:
    """An adapter's content as it was admitted; never changes."""

    hub_repo: str
    commit: str
    config_sha256: str
    weights_sha256: str
    size_bytes: int
    rank: int
    target_modules: tuple[str, ...]
    extras: RepoExtras = field(default_factory=RepoExtras)

    @property
    def digest(self) -> str:
        """Names the content, wherever it comes from."""
        return digest_of(self.config_sha256, self.weights_sha256)


@dataclass(frozen=True)
class Adapter:
    """An adapter as asked for and, once admitted, as it is."""

    hub_repo: str
    revision: str
    """Branch, tag or commit; empty means the default branch."""
    hub_token: bytes | None = None
    """Sealed."""
    version: AdapterVersion | None = None
    number: int = 0
    """Of the version, among those of its deployment; 0 until there is one."""
    accept_base_name: bool = False
    """Its owner says that it is for this base, whatever its config names."""
    use_base_template: bool = False
    """Its owner wants the base's chat template and end tokens, whatever the repo has."""


@dataclass(frozen=True)
class Deployment:
    """One name of one account. Every change gives a new value with `version` one higher."""

    uid: str
    account: str
    deployment_id: str
    base_model: str
    state: State
    serving: Adapter
    """What serves, or is being brought to serve first."""
    create_time: datetime
    update_time: datetime
    candidate: Adapter | None = None
    """What will replace `serving`, while an update is under way."""
    failure: Failure | None = None
    status_message: str = ""
    version: int = 1
    generation: int = 1
    """Counts what its owner asked for; work begun for an earlier one is void."""
    versions: int = 0
    """How many adapter versions have been admitted under this name."""

    @property
    def name(self) -> str:
        """`account/deployment_id`."""
        return f"{self.account}/{self.deployment_id}"

    @property
    def etag(self) -> str:
        """Differs after every change."""
        return hashlib.sha256(f"{self.uid} {self.version}".encode()).hexdigest()[:16]

    @property
    def wanted(self) -> Adapter:
        """What its owner last asked for; work that is under way is about this."""
        return self.candidate or self.serving

    @property
    def under_way(self) -> bool:
        """Whether there is work to do to get where its owner wants it."""
        return self.state in (State.INITIALIZING, State.DEPLOYING) or self.candidate is not None
