"""Errors of the services that the gateway itself calls."""


class RelayedError(Exception):
    """A status that a worker or the registry answered with, and that is the client's to see as it is."""

    def __init__(self, status: object, reason: str, *, unavailable: bool) -> None:
        super().__init__(reason)
        self.status = status
        """The edge's own message; nothing in between looks inside."""
        self.reason = reason
        self.unavailable = unavailable
        """Whether the same request may succeed elsewhere."""
