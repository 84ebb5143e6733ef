"""The hub as a program or a test holds it."""

import collections
from collections.abc import Collection, Mapping
from pathlib import Path

from loramux.localhub import store
from loramux.localhub.faults import FaultHook, HubRequest
from loramux.localhub.store import RepoInfo, RepoStore

_REQUESTS_KEPT = 10_000


class LocalHub:
    """Serves the repositories under `root`; the folder is the only state, so it may be edited while serving.

    - `root/<owner>/<name>/`: a repository's files. Its commit is a digest of them: editing one makes a new
      commit. Older commits stay served while this object lives, if somebody asked for them when they were
      current.
    - `root/<owner>/<name>.hub.toml`: `private`, `gated`, `allowed_users`; each may be left out.
    - `root/tokens.toml`: `"hf_..." = "user name"`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = RepoStore(root)
        self.fault: FaultHook | None = None
        """Asked at every request what should go wrong with it; runs on the server's thread."""
        self.requests: collections.deque[HubRequest] = collections.deque(maxlen=_REQUESTS_KEPT)
        """The latest requests, oldest first."""

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes] | Path,
        *,
        private: bool = False,
        gated: bool = False,
        allowed_users: Collection[str] | None = None,
    ) -> str:
        """Make or replace a repository from contents by path, or from a folder's copy; returns the commit.

        `allowed_users` may read a private or gated repository; None lets in every user with a token.
        Raises ValueError for an id that is not `owner/name`.
        """
        if not store.is_repo_id(repo_id):
            raise ValueError(f"repo_id is {repo_id!r}; it must be owner/name")
        store.write_files(self.folder(repo_id), files)
        allowed = None if allowed_users is None else frozenset(allowed_users)
        store.write_sidecar(self.root, RepoInfo(repo_id, private, gated, allowed))
        return self.commit(repo_id)

    def add_token(self, token: str, user: str) -> None:
        """Let `user` in with `token`."""
        self.root.mkdir(parents=True, exist_ok=True)
        store.write_users(self.root, {**self.store.users(), token: user})

    def add_tag(self, repo_id: str, tag: str) -> str:
        """Name the repository's current commit; returns the commit. Tags live as long as this object."""
        return self.store.tag(repo_id, tag)

    def folder(self, repo_id: str) -> Path:
        """Where a repository's files are; they may be edited."""
        return self.root / repo_id

    def commit(self, repo_id: str) -> str:
        """The commit that the default branch stands for now. Raises KeyError where there is no such repo."""
        snapshot = self.store.snapshot(repo_id) if self.store.info(repo_id) is not None else None
        if snapshot is None:
            raise KeyError(repo_id)
        return snapshot.commit

    def close(self) -> None:
        """Drop the copies that older commits are served from."""
        self.store.close()
