"""How a deployment becomes the next, and what its followers see of it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.errors import StaleEtagError, UnavailableError
from services.registry.deployments import lifecycle
from services.registry.deployments.changes import MAX_UNSEEN, Changes
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State

MOMENT = datetime.fromtimestamp(0, UTC)
VERSION = AdapterVersion("org/a", "c" * 40, "1" * 64, "2" * 64, 100, 8, ("q_proj",))
OTHER = replace(VERSION, commit="d" * 40, weights_sha256="3" * 64)
FIRST = Adapter("org/a", "main", hub_token=b"sealed")
SECOND = Adapter("org/b", "")
NEW = Deployment("u1", "acme", "pirate", "tiny", State.INITIALIZING, FIRST, MOMENT, MOMENT)
RUNNING = lifecycle.loaded(lifecycle.admitted(NEW, VERSION))
FAILURE = Failure("REASON", "message", {})


def test_it_walks_to_running() -> None:
    admitted = lifecycle.admitted(NEW, VERSION)
    assert (admitted.state, admitted.serving.version, admitted.under_way) == (State.DEPLOYING, VERSION, True)
    assert (RUNNING.state, RUNNING.under_way) == (State.RUNNING, False)


def test_it_fails_on_the_way() -> None:
    failed = lifecycle.failed(NEW, FAILURE)
    assert (failed.state, failed.failure, failed.under_way) == (State.FAILED, FAILURE, False)


def test_an_update_walks_beside_what_serves() -> None:
    updating = lifecycle.updated(RUNNING, SECOND)
    assert (updating.state, updating.serving, updating.wanted) == (State.RUNNING, RUNNING.serving, SECOND)
    admitted = lifecycle.admitted(updating, VERSION)
    assert (admitted.state, admitted.serving) == (State.RUNNING, RUNNING.serving)
    done = lifecycle.loaded(admitted)
    assert (done.state, done.serving, done.candidate) == (
        State.RUNNING,
        replace(SECOND, version=VERSION, number=1),
        None,
    )


def test_a_failed_update_leaves_what_serves_and_its_token() -> None:
    failed = lifecycle.failed(lifecycle.updated(RUNNING, SECOND), FAILURE)
    assert (failed.state, failed.serving, failed.candidate) == (State.RUNNING, RUNNING.serving, None)
    assert failed.failure == FAILURE
    assert failed.serving.hub_token == b"sealed"
    assert lifecycle.updated(failed, SECOND).failure is None


@pytest.mark.parametrize("before", [NEW, lifecycle.admitted(NEW, VERSION), lifecycle.failed(NEW, FAILURE)])
def test_an_update_of_what_does_not_serve_starts_over(before: Deployment) -> None:
    after = lifecycle.updated(before, SECOND)
    assert (after.state, after.serving, after.candidate) == (State.INITIALIZING, SECOND, None)
    assert after.failure is None


def test_deleting_forgets_every_token() -> None:
    gone = lifecycle.deleted(lifecycle.updated(RUNNING, replace(SECOND, hub_token=b"other")))
    assert gone.state is State.DELETED
    assert (gone.serving.hub_token, gone.candidate) == (None, None)


def test_what_the_owner_does_voids_work_begun_before() -> None:
    for changed in (lifecycle.updated(RUNNING, SECOND), lifecycle.deleted(RUNNING)):
        with pytest.raises(lifecycle.SupersededError):
            lifecycle.check_generation(changed, RUNNING.generation)
    lifecycle.check_generation(lifecycle.progressed(RUNNING, "loading"), RUNNING.generation)


def test_an_etag_is_that_of_one_version_of_one_deployment() -> None:
    etags = {replace(NEW, uid=uid, version=version).etag for uid in ("a", "b") for version in (1, 2)}
    assert len(etags) == 4
    lifecycle.check_etag(NEW, "")
    lifecycle.check_etag(NEW, NEW.etag)
    with pytest.raises(StaleEtagError):
        lifecycle.check_etag(replace(NEW, version=2), NEW.etag)


class TestNumbers:
    def test_versions_are_counted_from_one_as_they_are_admitted(self) -> None:
        assert (NEW.serving.number, RUNNING.serving.number) == (0, 1)
        updating = lifecycle.updated(RUNNING, SECOND)
        assert updating.wanted.number == 0
        admitted = lifecycle.admitted(updating, OTHER)
        assert (admitted.serving.number, admitted.wanted.number) == (1, 2)
        assert lifecycle.loaded(admitted).serving.number == 2

    def test_a_number_is_not_used_twice_though_its_version_failed(self) -> None:
        failed = lifecycle.failed(lifecycle.admitted(lifecycle.updated(RUNNING, SECOND), OTHER), FAILURE)
        again = lifecycle.admitted(lifecycle.updated(failed, SECOND), OTHER)
        assert again.wanted.number == 3
        over = lifecycle.failed(lifecycle.admitted(NEW, VERSION), FAILURE)
        assert lifecycle.admitted(lifecycle.updated(over, SECOND), OTHER).serving.number == 2

    def test_what_serves_already_keeps_its_number_when_it_is_looked_at_again(self) -> None:
        again = lifecycle.admitted(lifecycle.updated(RUNNING, FIRST), VERSION)
        assert (again.wanted.number, again.versions) == (1, 1)


def test_a_renewed_token_changes_the_token_and_nothing_else() -> None:
    failed = lifecycle.failed(lifecycle.updated(RUNNING, SECOND), FAILURE)
    renewed = lifecycle.token_renewed(failed, b"new")
    assert renewed == replace(RUNNING, generation=2, serving=replace(RUNNING.serving, hub_token=b"new"))
    assert not renewed.under_way
    assert lifecycle.token_renewed(renewed, None).serving.hub_token is None


class TestFollowing:
    async def test_a_follower_sees_each_change_once_and_in_order(self) -> None:
        changes = Changes()
        follower = changes.follow("u1")
        changes.publish(replace(NEW, version=2))
        follower.put(NEW)  # read before the change, put after it
        changes.publish(replace(NEW, version=3))
        changes.publish(replace(NEW, uid="other", version=9))
        assert [(await follower.next()).version for _ in range(2)] == [2, 3]

    async def test_a_slow_one_misses_what_is_between_and_gets_the_latest(self) -> None:
        changes = Changes()
        follower = changes.follow("u1")
        for version in range(1, 3 * MAX_UNSEEN):
            changes.publish(replace(NEW, version=version))
        seen = [(await follower.next()).version for _ in range(MAX_UNSEEN)]
        assert seen[-1] == 3 * MAX_UNSEEN - 1

    async def test_the_end_comes_after_what_is_unseen(self) -> None:
        changes = Changes()
        follower = changes.follow("u1")
        changes.publish(NEW)
        changes.end()
        assert (await follower.next()).version == 1
        with pytest.raises(UnavailableError):
            await follower.next()

    async def test_who_left_is_forgotten(self) -> None:
        changes = Changes()
        follower = changes.follow("u1")
        changes.unfollow("u1", follower)
        changes.publish(NEW)
        waiting = asyncio.create_task(follower.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
