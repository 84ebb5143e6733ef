"""Requests per minute by the generic cell rate algorithm, as a pure function over whole microseconds.

The state is one number, the theoretical arrival time: the moment at which the account would have used up
nothing. See https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm (virtual scheduling). A whole minute's
requests may come at once; after that they trickle in at the rate.
"""

from dataclasses import dataclass

MINUTE = 60_000_000


@dataclass(frozen=True)
class Arrival:
    """What became of a request."""

    admitted: bool
    arrival_time: int
    """The theoretical arrival time after it; unchanged when it was refused."""
    retry_after: int
    """Microseconds until the same request would be admitted; 0 when it was."""


def arrive(arrival_time: int, now: int, per_minute: int) -> Arrival:
    """Decide on one request at `now`, in microseconds; `per_minute` is at least 1."""
    interval = MINUTE // per_minute
    earliest = arrival_time - interval * (per_minute - 1)
    if now < earliest:
        return Arrival(admitted=False, arrival_time=arrival_time, retry_after=earliest - now)
    return Arrival(admitted=True, arrival_time=max(arrival_time, now) + interval, retry_after=0)
