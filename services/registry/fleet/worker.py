"""What the registry knows of a worker."""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Report:
    """What a worker says of itself again and again."""

    resident_digests: frozenset[str] = frozenset()
    running_sequences: int = 0
    waiting_sequences: int = 0
    draining: bool = False


@dataclass(frozen=True)
class Worker:
    """A worker under lease."""

    registration: Registration
    report: Report
