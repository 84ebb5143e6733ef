"""From the key of a call to who calls."""

from dataclasses import dataclass

import structlog

from services.common import errors
from services.common.clock import Clock
from services.gateway.accounts.accounts import AccountLimits
from services.gateway.accounts.keys import PREFIX, Keys, hash_of, same_hash

# A revocation in another process must hold within 5 s; a look-up takes some of that.
_CACHE_SECONDS = 4.0
_CACHE_SIZE = 10_000


@dataclass(frozen=True)
class Principal:
    """Who calls."""

    account: str
    """Empty for the operator, who has no account."""
    key: str
    """Name of the key that it calls with; empty for the operator."""
    is_operator: bool
    limits: AccountLimits

    def member(self) -> str:
        """The caller's account, for what only accounts do. Raises PermissionDeniedError for the operator."""
        if self.is_operator:
            raise errors.PermissionDeniedError(
                "the operator's key belongs to no account; use a key of the account that is to do this",
            )
        return self.account

    def operator(self) -> None:
        """Raise PermissionDeniedError unless the operator calls."""
        if not self.is_operator:
            raise errors.PermissionDeniedError("only the operator's key may do this")


@dataclass(frozen=True)
class _Cached:
    principal: Principal
    key_id: str
    expires: float


class Authenticator:
    """Tells callers by their keys; remembers a key for a few seconds, and a revocation here at once."""

    def __init__(self, keys: Keys, operator_hash: str, clock: Clock) -> None:
        self._keys = keys
        self._operator_hash = operator_hash
        self._clock = clock
        self._cache: dict[str, _Cached] = {}
        self._revocations = 0

    async def authenticate(self, authorization: str) -> Principal:
        """Who sends this `authorization` metadata, `Bearer lmx_...`; logs of the call then name the account.

        Raises UnauthenticatedError.
        """
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise errors.UnauthenticatedError(
                "NO_KEY",
                "the call carries no key; send it as metadata `authorization: Bearer lmx_...`",
            )
        key_hash = hash_of(secret)
        if same_hash(key_hash, self._operator_hash):
            return Principal(account="", key="", is_operator=True, limits=AccountLimits())
        cached = self._cache.get(key_hash)
        if cached is None or cached.expires <= self._clock.monotonic():
            cached = await self._look_up(secret, key_hash)
        structlog.contextvars.bind_contextvars(account=cached.principal.account)
        return cached.principal

    def forget(self, key_id: str) -> None:
        """Let a revoked key fail from now on."""
        self._revocations += 1
        for key_hash in [known for known, cached in self._cache.items() if cached.key_id == key_id]:
            del self._cache[key_hash]

    async def _look_up(self, secret: str, key_hash: str) -> _Cached:
        asked = self._clock.monotonic()
        revocations = self._revocations
        holder = await self._keys.find(key_hash) if secret.startswith(PREFIX) else None
        if holder is None:
            raise errors.UnauthenticatedError("KEY_INVALID", "the key is wrong")
        if holder.key.revoke_time is not None:
            self._cache.pop(key_hash, None)
            raise errors.UnauthenticatedError("KEY_REVOKED", "the key has been revoked")
        principal = Principal(
            account=holder.account.id,
            key=holder.key.id,
            is_operator=False,
            limits=holder.account.limits,
        )
        cached = _Cached(principal=principal, key_id=holder.key.id, expires=asked + _CACHE_SECONDS)
        # A key revoked while it was being looked up must not come to stay.
        if revocations == self._revocations:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.pop(next(iter(self._cache)))
            self._cache[key_hash] = cached
        return cached
