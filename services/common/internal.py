"""Calls between the services: the secret that opens a door, and what is passed along."""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc.aio

from services.common import errors
from services.common.rpc_types import RpcContext

REQUEST_ID = "x-loramux-request-id"
ACCOUNT = "x-loramux-account"

# A server answers too many pings with GOAWAY, so both sides agree on these.
KEEPALIVE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
# A service that comes back is found within a second, not after grpc's two minutes of back-off.
_RECONNECT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class InternalCalls:
    """Calls through one door: a secret that the callers of some services share, and that opens nothing else.

    There are three, so that a worker that was broken into opens nothing of the gateways': what gateways show the
    registry, what workers show the registry, and what both of those show workers.
    """

    secret: str

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel to `host:port`; it reconnects by itself."""
        return grpc.aio.insecure_channel(address, options=(*KEEPALIVE_OPTIONS, *_RECONNECT_OPTIONS))

    def metadata(self, *, request_id: str = "", account: str = "") -> Metadata:
        """What proves the caller, and for whom it calls."""
        pairs = [("authorization", f"Bearer {self.secret}")]
        if request_id:
            pairs.append((REQUEST_ID, request_id))
        if account:
            pairs.append((ACCOUNT, account))
        return tuple(pairs)

    def check(self, metadata: Mapping[str, str]) -> None:
        """Raise UnauthenticatedError unless the call carries the secret."""
        given = metadata.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.secret.encode()):
            raise errors.UnauthenticatedError(
                "INTERNAL_SECRET_WRONG",
                "this service is internal; the call does not carry the secret that opens it",
            )


def as_mapping(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """A call's text metadata by name; the last value of a repeated name."""
    return {key: value if isinstance(value, str) else "" for key, value in metadata or ()}


def metadata_of(context: RpcContext) -> dict[str, str]:
    """As `as_mapping`, of a call that is being handled."""
    return as_mapping(context.invocation_metadata())


def account_of(context: RpcContext) -> str:
    """The account that the gateway authenticated; only to be asked behind the internal secret."""
    account = metadata_of(context).get(ACCOUNT, "")
    if not account:
        raise errors.UnauthenticatedError("NO_ACCOUNT", "the call does not say for which account it is")
    return account
