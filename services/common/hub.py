"""The Hugging Face Hub's own client for registry and worker: the token always explicit, every error a ServiceError.

Everything here blocks: call it from a thread. Nothing is read from, or written to, the host's own Hub cache
and login, and nothing from the Hub is executed. The reasons are stable:

- HUB_REPO_NOT_FOUND, HUB_REPO_PRIVATE, HUB_REPO_GATED, HUB_REPO_DISABLED, HUB_TOKEN_REFUSED,
  HUB_REVISION_NOT_FOUND, HUB_FILE_MISSING, HUB_REFUSED: PreconditionError, a retry does not help;
- HUB_UNREACHABLE: UnavailableError, a retry may help;
- HUB_REPO_INVALID, HUB_FILE_TOO_LARGE: InvalidFieldError.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import httpx2
import huggingface_hub
import huggingface_hub.constants
from huggingface_hub import errors as hf_errors
from huggingface_hub import hf_api
from huggingface_hub.utils.tqdm import disable_progress_bars, tqdm

from services.common import errors

# Xet keeps a cache of chunks in the home directory and asks other servers than the operator's endpoint.
huggingface_hub.constants.HF_HUB_DISABLE_XET = True
disable_progress_bars()

TIMEOUT = 10.0
"""Seconds without a byte after which the Hub counts as unreachable."""

_RETRY_AFTER = 5.0
_BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class DownloadCancelledError(Exception):
    """`cancelled` turned true while a download ran; nothing of it is left on disk."""


class HubClient:
    """One Hub. Every method takes the token of the caller's choice; empty sends none, not even the host's own."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is the operator's, such as https://huggingface.co."""
        self._endpoint = endpoint.rstrip("/")

    def model_info(self, repo: str, revision: str, *, token: str) -> hf_api.ModelInfo:
        """A repo at a branch, tag or commit: its `sha` is the commit, `siblings` its files with sizes and LFS sums."""
        with _translated(repo, revision, token=token):
            return self._api(token).model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)

    def download(
        self,
        repo: str,
        commit: str,
        filename: str,
        folder: Path,
        *,
        token: str,
        max_bytes: int,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Path:
        """Fetch one file to `folder/filename`, and leave nothing else; `filename` has no directory part.

        The client checks no sums: that is the caller's to do. Raises DownloadCancelledError.
        """
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch,
            _translated(repo, commit, token=token, filename=filename),
        ):
            self._check_size(repo, commit, filename, token=token, max_bytes=max_bytes)
            if cancelled():
                raise DownloadCancelledError(filename)
            path = huggingface_hub.hf_hub_download(
                repo,
                filename,
                revision=commit,
                local_dir=scratch,
                cache_dir=scratch,
                endpoint=self._endpoint,
                token=token or False,
                etag_timeout=TIMEOUT,
                tqdm_class=_watcher(filename, max_bytes, cancelled),
            )
            return Path(path).replace(folder / filename)

    def check(self, repo: str, commit: str, filename: str, *, token: str, max_bytes: int) -> None:
        """Ask whether one file can be fetched: whatever `download` raises before it writes anything."""
        with _translated(repo, commit, token=token, filename=filename):
            self._check_size(repo, commit, filename, token=token, max_bytes=max_bytes)

    def snapshot(self, repo: str, commit: str, cache: Path, *, patterns: Sequence[str], token: str) -> Path:
        """Fetch the files that match `patterns` into the Hub cache `cache`; a commit that is there whole is not asked for."""
        with _translated(repo, commit, token=token):
            path = huggingface_hub.snapshot_download(
                repo,
                revision=commit,
                cache_dir=cache,
                allow_patterns=list(patterns),
                endpoint=self._endpoint,
                token=token or False,
                etag_timeout=TIMEOUT,
            )
        return Path(path)

    def _check_size(self, repo: str, commit: str, filename: str, *, token: str, max_bytes: int) -> None:
        """Ask for the file before fetching it.

        hf_hub_download would answer the same, but in the course of half a minute, and a refusal only as a
        missing local file.
        """
        url = huggingface_hub.hf_hub_url(repo, filename, revision=commit, endpoint=self._endpoint)
        size = self._api(token).get_hf_file_metadata(url=url, timeout=TIMEOUT).size
        if size is not None and size > max_bytes:
            raise _too_large(filename, size, max_bytes)

    def _api(self, token: str) -> huggingface_hub.HfApi:
        return huggingface_hub.HfApi(endpoint=self._endpoint, token=token or False)


def translate(
    error: BaseException, *, repo: str, revision: str, has_token: bool, filename: str = ""
) -> errors.ServiceError | None:
    """What a Hub error means for the owner of a deployment; None for an error that is not the Hub's."""
    if isinstance(error, hf_errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        # The client looked for a local copy because the Hub gave none; the cause says why.
        error = error.__cause__
    if isinstance(error, hf_errors.HFValidationError):
        return errors.InvalidFieldError(
            "hub_repo", repo, "a Hub repo id, such as org/name", reason="HUB_REPO_INVALID"
        )
    if isinstance(error, hf_errors.HfHubHTTPError):
        refusal = _refusal(error, repo, revision, filename, has_token=has_token)
        if refusal is not None:
            reason, message = refusal
            details = {"repo": repo, "revision": revision, "file": filename}
            return errors.PreconditionError(
                reason, repo, message, {name: value for name, value in details.items() if value}
            )
    if _is_outage(error):
        status = error.response.status_code if isinstance(error, hf_errors.HfHubHTTPError) else 0
        return errors.UnavailableError(
            "HUB_UNREACHABLE",
            f"the Hub gave no answer for {repo}{f' (HTTP {status})' if status else ''}; try again later",
            retry_after=_RETRY_AFTER,
            metadata={"repo": repo},
        )
    return None


def _refusal(
    error: hf_errors.HfHubHTTPError, repo: str, revision: str, filename: str, *, has_token: bool
) -> tuple[str, str] | None:
    """(reason, message) where the Hub has answered and will answer the same again."""
    match error:
        # A subclass of RepositoryNotFoundError, so it comes before what goes by the status alone.
        case hf_errors.GatedRepoError():
            ask = "pass a Hub token whose owner has been" if not has_token else "the token's owner must be"
            return "HUB_REPO_GATED", f"the Hub repo {repo} is gated: {ask} granted access on the Hub"
        case hf_errors.RevisionNotFoundError():
            return "HUB_REVISION_NOT_FOUND", f"the Hub repo {repo} has no revision {revision}"
        case hf_errors.RemoteEntryNotFoundError():
            return "HUB_FILE_MISSING", f"the Hub repo {repo} has no file {filename} at revision {revision}"
        case hf_errors.DisabledRepoError():
            return "HUB_REPO_DISABLED", f"the Hub has disabled the repo {repo}"
        case _:
            return _refusal_by_status(error.response.status_code, repo, has_token=has_token)


def _refusal_by_status(status: int, repo: str, *, has_token: bool) -> tuple[str, str] | None:
    # Over plain http a 401 carries no class of its own, so the class says no more than the status.
    match status, has_token:
        case ((HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN), True):
            return (
                "HUB_TOKEN_REFUSED",
                f"the Hub refuses the token for {repo}: pass one that may read this repo",
            )
        case ((HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN), False):
            return (
                "HUB_REPO_PRIVATE",
                f"no public Hub repo {repo}: check the name, or pass a Hub token that may read it",
            )
        case HTTPStatus.NOT_FOUND, _:
            hint = ", or the token may not read it" if has_token else ""
            return "HUB_REPO_NOT_FOUND", f"the Hub has no repo {repo}{hint}: check the name"
        case _ if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _BUSY:
            return "HUB_REFUSED", f"the Hub refuses the request for {repo} with HTTP {status}"
        case _:
            return None


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, (hf_errors.LocalEntryNotFoundError, hf_errors.FileMetadataError)):
        return True
    if isinstance(error, (hf_errors.OfflineModeIsEnabled, httpx2.HTTPError)):
        return True
    # The client's check of a body that ended early; an error of the disk has a number.
    return type(error) is OSError and error.errno is None


@contextmanager
def _translated(repo: str, revision: str, *, token: str, filename: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translated = translate(error, repo=repo, revision=revision, has_token=bool(token), filename=filename)
        if translated is None:
            raise
        # The Hub's own words stay out: they can hold signed addresses.
        raise translated from None


def _too_large(filename: str, size: int, max_bytes: int) -> errors.InvalidFieldError:
    return errors.InvalidFieldError(
        filename, f"{size} bytes", f"at most {max_bytes} bytes", reason="HUB_FILE_TOO_LARGE"
    )


def _watcher(filename: str, max_bytes: int, cancelled: Callable[[], bool]) -> type[tqdm]:
    """A progress bar that shows nothing and ends the download it is told about when it must not go on."""

    class Watcher(tqdm):
        received = 0

        def update(self, n: float | None = 1) -> None:
            self.received += int(n or 0)
            if cancelled():
                raise DownloadCancelledError(filename)
            if self.received > max_bytes:
                raise _too_large(filename, self.received, max_bytes)

    return Watcher
