"""Who follows a deployment, and what each has not yet seen."""

from collections import deque

from services.common.errors import UnavailableError
from services.registry.deployments.deployment import Deployment
from services.registry.fleet.signals import Signal

MAX_UNSEEN = 64
"""A follower that is slower than this misses changes in between, never the latest one."""


def draining() -> UnavailableError:
    """What ends the streams of a registry that stops."""
    return UnavailableError("REGISTRY_DRAINING", "the registry is stopping; connect again", retry_after=1.0)


class Follower:
    """One watcher of one deployment."""

    def __init__(self) -> None:
        self._unseen: deque[Deployment] = deque(maxlen=MAX_UNSEEN)
        self._latest = 0
        self._ended = False
        self._signal = Signal()

    def put(self, deployment: Deployment) -> None:
        """Add a change. One older than what the follower has been given is left out."""
        if deployment.version > self._latest:
            self._latest = deployment.version
            self._unseen.append(deployment)
            self._signal.notify()

    def end(self) -> None:
        """Let `next` raise once everything has been seen."""
        self._ended = True
        self._signal.notify()

    async def next(self) -> Deployment:
        """The next change, waiting for it. Raises UnavailableError once the registry stops."""
        while not self._unseen:
            if self._ended:
                raise draining()
            await self._signal.wait()
        return self._unseen.popleft()


class Changes:
    """Hands each change of a deployment to its followers."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Follower]] = {}

    def follow(self, uid: str) -> Follower:
        """Begin to note changes; `unfollow` must be called in the end.

        Read the deployment after this and put it into the follower: then no change falls in between.
        """
        follower = Follower()
        self._followers.setdefault(uid, set()).add(follower)
        return follower

    def unfollow(self, uid: str, follower: Follower) -> None:
        """Forget a follower."""
        followers = self._followers.get(uid, set())
        followers.discard(follower)
        if not followers:
            self._followers.pop(uid, None)

    def publish(self, deployment: Deployment) -> None:
        """Tell everybody who follows this deployment."""
        for follower in self._followers.get(deployment.uid, ()):
            follower.put(deployment)

    def end(self) -> None:
        """End every follower."""
        for followers in self._followers.values():
            for follower in followers:
                follower.end()
