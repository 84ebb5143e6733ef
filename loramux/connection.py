"""Where a client connects to, and how: targets, keys, their defaults, channel options."""

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loramux import profile, retry

_DEFAULT_PORTS = {"http": 80, "https": 443}


class MissingSettingError(ValueError):
    """Neither an argument nor a variable nor a running `loramux up` says it."""


@dataclass(frozen=True)
class Connection:
    """What a channel is made of."""

    address: str
    """As grpc takes it: host:port, or any of its own schemes."""
    tls: bool
    api_key: str = field(repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.api_key}"),)

    @property
    def options(self) -> tuple[tuple[str, str | int], ...]:
        """Channel options: retries, keepalive as the services expect it, and quick reconnects."""
        return (
            ("grpc.service_config", retry.service_config()),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            # A proxy of the environment never leads back to this machine.
            ("grpc.enable_http_proxy", 0 if _is_loopback(self.address) else 1),
        )


def resolve(target: str | None, api_key: str | None, *, tls: bool | None) -> Connection:
    """Fill in what is not given: from LORAMUX_TARGET and LORAMUX_API_KEY, then from `loramux up`'s file.

    The file's key goes to the file's target only. Raises MissingSettingError, or ValueError for a target
    that is not host:port, http:// or https://.
    """
    running = profile.load()
    chosen = target or os.environ.get("LORAMUX_TARGET") or (running.target if running else "")
    if not chosen:
        raise MissingSettingError("no target: pass target, set LORAMUX_TARGET, or start `loramux up`")
    key = api_key or os.environ.get("LORAMUX_API_KEY")
    if not key and running is not None and chosen == running.target:
        key = running.api_key
    if not key:
        raise MissingSettingError(f"no API key for {chosen}: pass api_key or set LORAMUX_API_KEY")
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key must be printable ASCII characters")
    address, secure = parse_target(chosen)
    return Connection(address=address, tls=secure if tls is None else tls, api_key=key)


def parse_target(target: str) -> tuple[str, bool]:
    """The address as grpc takes it, and whether the target asks for TLS. Raises ValueError."""
    scheme, separator, _ = target.partition("://")
    if not separator:
        return target, False
    if scheme not in _DEFAULT_PORTS:
        # dns:///, unix:// and the like are grpc's own.
        return target, False
    parts = urlsplit(target)
    port = parts.port or _DEFAULT_PORTS[scheme]
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError(
            f"target is {target!r}; it must be host:port, http://host[:port] or https://host[:port]"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", scheme == "https"


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
