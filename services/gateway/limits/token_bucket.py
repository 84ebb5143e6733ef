"""Tokens per minute by a bucket, as pure functions over whole numbers.

A bucket holds one minute's tokens and fills evenly. Its level is kept in sixty-millionths of a token, so that
what flows in during a microsecond is a whole number and nothing is lost to rounding.
"""

from dataclasses import dataclass

_SCALE = 60_000_000


@dataclass(frozen=True)
class Bucket:
    """A bucket's level as of a moment."""

    level: int
    """In 1/60,000,000 of a token; below zero when more was used than was set aside."""
    time: int
    """Microseconds."""


@dataclass(frozen=True)
class Draw:
    """What became of an attempt to take tokens."""

    admitted: bool
    bucket: Bucket
    """The bucket after it; nothing is taken when it was refused."""
    retry_after: int
    """Microseconds until the same draw would be admitted; 0 when it was."""


def full(per_minute: int, now: int) -> Bucket:
    """A bucket that nothing was taken from."""
    return Bucket(level=per_minute * _SCALE, time=now)


def take(bucket: Bucket, now: int, per_minute: int, tokens: int) -> Draw:
    """Take `tokens`, at most what the bucket can hold, or nothing."""
    filled = _fill(bucket, now, per_minute)
    missing = tokens * _SCALE - filled.level
    if missing > 0:
        return Draw(admitted=False, bucket=filled, retry_after=-(-missing // per_minute))
    return Draw(
        admitted=True,
        bucket=Bucket(level=filled.level - tokens * _SCALE, time=filled.time),
        retry_after=0,
    )


def give_back(bucket: Bucket, now: int, per_minute: int, tokens: int) -> Bucket:
    """Put `tokens` back; a negative number takes more, below zero if need be."""
    filled = _fill(bucket, now, per_minute)
    return Bucket(level=min(filled.level + tokens * _SCALE, per_minute * _SCALE), time=filled.time)


def _fill(bucket: Bucket, now: int, per_minute: int) -> Bucket:
    elapsed = max(now - bucket.time, 0)
    return Bucket(
        level=min(bucket.level + elapsed * per_minute, per_minute * _SCALE),
        time=max(now, bucket.time),
    )
