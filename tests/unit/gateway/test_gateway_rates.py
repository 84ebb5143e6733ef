"""Request rate and token bucket, as pure functions."""

import random

import pytest

from services.gateway.limits import gcra, token_bucket

MINUTE = gcra.MINUTE
SECOND = MINUTE // 60


def arrivals(times: list[int], per_minute: int) -> list[int]:
    """The times that were admitted."""
    arrival_time, admitted = times[0], []
    for now in times:
        decision = gcra.arrive(arrival_time, now, per_minute)
        arrival_time = decision.arrival_time
        if decision.admitted:
            admitted.append(now)
    return admitted


@pytest.mark.parametrize("per_minute", [1, 7, 60, 1_000, 60_000_000])
def test_a_whole_minutes_requests_may_come_at_once_and_not_one_more(per_minute: int) -> None:
    tried = min(per_minute, 2_000) + 1
    admitted = len(arrivals([0] * tried, per_minute))
    assert admitted == min(per_minute, tried)


def test_the_request_after_a_burst_is_admitted_when_its_answer_said_so() -> None:
    used_up = 0
    for _ in range(7):
        used_up = gcra.arrive(used_up, 0, 7).arrival_time
    refused = gcra.arrive(used_up, 0, 7)
    assert not refused.admitted
    assert not gcra.arrive(used_up, refused.retry_after - 1, 7).admitted
    assert gcra.arrive(used_up, refused.retry_after, 7).admitted


def test_a_refused_request_changes_nothing() -> None:
    used_up = gcra.arrive(0, 0, 1).arrival_time
    assert gcra.arrive(used_up, 10, 1).arrival_time == used_up


def test_over_any_time_no_more_than_a_burst_and_the_rate_get_through() -> None:
    generator = random.Random(5)
    for per_minute in (3, 30, 300):
        times = sorted(generator.randrange(10 * MINUTE) for _ in range(5_000))
        admitted = arrivals(times, per_minute)
        for first in admitted[::17]:
            within = [one for one in admitted if first <= one < first + 2 * MINUTE]
            assert len(within) <= 3 * per_minute + 1


def test_a_bucket_gives_what_it_holds_and_not_one_token_more() -> None:
    bucket = token_bucket.full(100, 0)
    first = token_bucket.take(bucket, 0, 100, 60)
    second = token_bucket.take(first.bucket, 0, 100, 41)
    third = token_bucket.take(second.bucket, 0, 100, 40)
    assert (first.admitted, second.admitted, third.admitted) == (True, False, True)


def test_a_refused_draw_takes_nothing_and_names_the_moment_when_it_would_succeed() -> None:
    empty = token_bucket.take(token_bucket.full(60, 0), 0, 60, 60).bucket
    refused = token_bucket.take(empty, 0, 60, 7)
    assert refused.bucket.level == 0
    assert refused.retry_after == 7 * SECOND
    assert not token_bucket.take(empty, refused.retry_after - 1, 60, 7).admitted
    assert token_bucket.take(empty, refused.retry_after, 60, 7).admitted


@pytest.mark.parametrize("per_minute", [1, 7, 59, 1_001])
def test_filling_in_small_steps_loses_nothing_to_rounding(per_minute: int) -> None:
    bucket = token_bucket.take(token_bucket.full(per_minute, 0), 0, per_minute, per_minute).bucket
    for now in range(0, MINUTE, 999_983):
        bucket = token_bucket.take(bucket, now, per_minute, 0).bucket
    assert token_bucket.take(bucket, MINUTE, per_minute, per_minute).admitted


def test_giving_back_never_overfills() -> None:
    bucket = token_bucket.give_back(token_bucket.full(10, 0), 0, 10, 5)
    assert not token_bucket.take(bucket, 0, 10, 11).admitted


def test_using_more_than_was_set_aside_leaves_a_debt_that_time_pays() -> None:
    bucket = token_bucket.take(token_bucket.full(60, 0), 0, 60, 60).bucket
    bucket = token_bucket.give_back(bucket, 0, 60, -30)
    assert token_bucket.take(bucket, 0, 60, 1).retry_after == 31 * SECOND


def test_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = token_bucket.take(token_bucket.full(60, MINUTE), MINUTE, 60, 60).bucket
    bucket = token_bucket.take(bucket, 0, 60, 0).bucket
    assert not token_bucket.take(bucket, MINUTE, 60, 1).admitted
