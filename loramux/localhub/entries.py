"""What the Hub tells about repositories, users, files and folders, as JSON values."""

import hashlib
from typing import Any

from loramux.localhub.store import RepoInfo, Snapshot, StoredFile

# Any: JSON values.
Json = dict[str, Any]


def user(name: str) -> Json:
    """The answer of whoami."""
    return {
        "type": "user",
        "id": _object_id(name),
        "name": name,
        "fullname": name,
        "isPro": False,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": {"displayName": "local", "role": "read"}},
    }


def model(info: RepoInfo, snapshot: Snapshot, *, blobs: bool) -> Json:
    """The answer of model_info; with `blobs`, sizes and digests of the files."""
    modified = snapshot.last_modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return {
        "_id": _object_id(info.repo_id),
        "id": info.repo_id,
        "modelId": info.repo_id,
        "author": info.repo_id.split("/")[0],
        "sha": snapshot.commit,
        "createdAt": modified,
        "lastModified": modified,
        "private": info.private,
        "gated": "manual" if info.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(one, blobs=blobs) for one in snapshot.files.values()],
    }


def file(stored: StoredFile) -> Json:
    """A file's entry in a tree."""
    entry: Json = {"type": "file", "oid": stored.blob_id, "size": stored.size, "path": stored.path}
    if stored.lfs_pointer_size is not None:
        entry["lfs"] = {
            "oid": stored.sha256,
            "size": stored.size,
            "pointerSize": stored.lfs_pointer_size,
        }
    return entry


def folder(path: str, commit: str) -> Json:
    """A folder's entry in a tree."""
    oid = hashlib.sha1(f"{commit}:{path}".encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _sibling(stored: StoredFile, *, blobs: bool) -> Json:
    entry: Json = {"rfilename": stored.path}
    if blobs:
        entry |= {"size": stored.size, "blobId": stored.blob_id}
        if stored.lfs_pointer_size is not None:
            entry["lfs"] = {
                "sha256": stored.sha256,
                "size": stored.size,
                "pointerSize": stored.lfs_pointer_size,
            }
    return entry


def _object_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
