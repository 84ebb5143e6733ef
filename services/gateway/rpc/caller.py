"""The gateway's door: the key of a call is looked at before its message is parsed."""

from collections.abc import Mapping
from contextvars import ContextVar

from services.gateway.accounts.auth import Authenticator, Principal

_principal: ContextVar[Principal] = ContextVar("principal")


class KeyDoor:
    """Lets calls in whose `authorization` metadata carries a good key; see `services.common.interceptors.Door`."""

    takes_request_ids = False

    def __init__(self, auth: Authenticator) -> None:
        self._auth = auth

    async def open(self, metadata: Mapping[str, str]) -> None:
        """Tell who calls; `principal` then has it. Raises UnauthenticatedError."""
        _principal.set(await self._auth.authenticate(metadata.get("authorization", "")))


def principal() -> Principal:
    """Who makes the call that is being handled."""
    return _principal.get()
