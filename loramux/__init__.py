"""loramux: the SDK and command line of the LoRA adapter server.

`Client` is async, `SyncClient` has the same methods without `await`. What they raise is in `loramux.errors`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loramux.client import Client
    from loramux.results import Chunk, Completion, FinishReason
    from loramux.sync_client import SyncClient
    from loramux.waiting import DeploymentFailedError

__all__ = ["Chunk", "Client", "Completion", "DeploymentFailedError", "FinishReason", "SyncClient"]

_HOMES = {
    "Chunk": "loramux.results",
    "Client": "loramux.client",
    "Completion": "loramux.results",
    "DeploymentFailedError": "loramux.waiting",
    "FinishReason": "loramux.results",
    "SyncClient": "loramux.sync_client",
}


def __getattr__(name: str) -> object:
    # Importing grpc takes longer than `loramux --help` should, so nothing is imported before it is used.
    if name not in _HOMES:
        raise AttributeError(f"module 'loramux' has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
