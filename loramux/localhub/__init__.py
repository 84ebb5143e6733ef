"""A Hugging Face Hub on this machine, for demos and tests where no Hub can be reached.

It speaks as much of the Hub's HTTP interface as the real `huggingface_hub` client needs to read model
repositories: model info, tree, paths-info, resolve with HEAD and Range, users' tokens, private and gated
repositories, and the Hub's error codes. Nothing can be uploaded. Needs the `hub` extra.
"""

from loramux.localhub.faults import CutConnection, Fault, FaultHook, Hold, HubRequest, Refuse, Tamper
from loramux.localhub.hub import LocalHub
from loramux.localhub.serving import running, serve
from loramux.localhub.store import HubRootError, RepoInfo, Snapshot, StoredFile

__all__ = [
    "CutConnection",
    "Fault",
    "FaultHook",
    "Hold",
    "HubRequest",
    "HubRootError",
    "LocalHub",
    "Refuse",
    "RepoInfo",
    "Snapshot",
    "StoredFile",
    "Tamper",
    "running",
    "serve",
]
