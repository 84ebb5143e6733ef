"""What the registry knows of a worker."""

from dataclasses import dataclass
from enum import Enum

from services.common.adapters.version import DIGEST
from services.common.errors import InvalidFieldError

# A worker's route travels in one message, so what it says of itself is bounded.
MAX_RESIDENTS = 4096
MAX_NAMES = 256
_MAX_ID, _MAX_NAME = 200, 128


@dataclass(frozen=True)
class Capabilities:
    """What an engine applies exactly. What is not named here it never gets."""

    engine: str = ""
    mode: str = ""
    """How it multiplies."""
    adapter_variants: tuple[str, ...] = ()
    max_lora_rank: int = 0
    target_modules: tuple[str, ...] = ()
    """Last parts of the paths that it can adapt; empty means all."""
    context_length: int = 0
    dtype: str = ""

    def check(self) -> None:
        """Raise InvalidFieldError for the first field that is out of bounds."""
        for field in ("engine", "mode", "dtype"):
            _check_length(f"registration.capabilities.{field}", getattr(self, field), _MAX_NAME)
        for field in ("adapter_variants", "target_modules"):
            names: tuple[str, ...] = getattr(self, field)
            if len(names) > MAX_NAMES:
                raise InvalidFieldError(
                    f"registration.capabilities.{field}", f"{len(names)} names", f"at most {MAX_NAMES} names"
                )
            for name in names:
                _check_length(f"registration.capabilities.{field}", name, _MAX_NAME)
        for field in ("max_lora_rank", "context_length"):
            if getattr(self, field) < 0:
                raise InvalidFieldError(
                    f"registration.capabilities.{field}", getattr(self, field), "at least 0"
                )


@dataclass(frozen=True)
class Registration:
    """What a worker says of itself once."""

    worker_id: str
    """Unique for each start of a worker process."""
    address: str
    """host:port"""
    base_model: str
    base_commit: str
    max_sequences: int
    adapter_slots: int
    capabilities: Capabilities = Capabilities()

    def check(self) -> None:
        """Raise InvalidFieldError for the first field that is out of bounds."""
        for field in ("worker_id", "address"):
            value = getattr(self, field)
            if not value:
                raise InvalidFieldError(f"registration.{field}", "", "set")
            _check_length(f"registration.{field}", value, _MAX_ID)
        if self.max_sequences < 1:
            raise InvalidFieldError("registration.max_sequences", self.max_sequences, "at least 1")
        if self.adapter_slots < 0:
            raise InvalidFieldError("registration.adapter_slots", self.adapter_slots, "at least 0")
        self.capabilities.check()


@dataclass(frozen=True)
class Memory:
    """What a worker's device holds."""

    kv_blocks: int
    """Blocks of keys and values."""
    kv_blocks_held: int
    """Of these, by sequences."""
    adapter_bytes: int
    """Taken by resident adapters."""


@dataclass(frozen=True)
class Report:
    """What a worker says of itself again and again."""

    resident_digests: frozenset[str] = frozenset()
    running_sequences: int = 0
    waiting_sequences: int = 0
    draining: bool = False
    memory: Memory | None = None
    """None where it does not say."""

    def check(self) -> None:
        """Raise InvalidFieldError where it names residents beyond bounds."""
        if len(self.resident_digests) > MAX_RESIDENTS:
            raise InvalidFieldError(
                "report.resident_digests",
                f"{len(self.resident_digests)} digests",
                f"at most {MAX_RESIDENTS} digests",
            )
        for digest in self.resident_digests:
            if not DIGEST.fullmatch(digest):
                raise InvalidFieldError("report.resident_digests", digest, "64 lower-case hex digits")


@dataclass(frozen=True)
class Worker:
    """A worker under lease."""

    registration: Registration
    report: Report


class Departure(Enum):
    """Why a worker is gone."""

    DRAINED = "drained"
    """It took no new work, and has finished what it had."""
    LOST = "lost"
    """It ended, or is silent: what ran on it may never end."""


def _check_length(field: str, value: str, longest: int) -> None:
    if len(value) > longest:
        raise InvalidFieldError(field, value, f"at most {longest} characters")
