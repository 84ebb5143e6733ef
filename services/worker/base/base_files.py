"""Where the base model's files are: in a folder that registry and worker share, or fetched from the Hub."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from services.common import errors, logs
from services.common.hub import HubClient

# Nothing that could be executed, and no second copy of the weights in another format.
PATTERNS = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_NEEDED = ("config.json", "tokenizer.json", "*.safetensors")

_log = logs.get_logger(__name__)


class StartRefusedError(Exception):
    """The worker cannot start, and waiting would not help; the message says what to change."""


@dataclass(frozen=True)
class BaseSource:
    """A base model as the registry describes it."""

    commit: str
    """Of the Hub repo, or a digest of the local files."""
    local_path: str = ""
    """A folder that registry and worker both see; empty where the files come from the Hub."""
    hub_repo: str = ""


async def base_folder(base: BaseSource, hub: HubClient, cache: Path, *, token: str) -> Path:
    """The folder of the base model's files; downloads them into `cache` where they are on the Hub.

    Waits for a Hub that cannot be reached; raises StartRefusedError when the files cannot be had.
    """
    if base.local_path:
        folder = Path(base.local_path)
    else:
        folder = await _downloaded(base.hub_repo, base.commit, hub, cache, token)
    missing = [name for name in _NEEDED if not any(folder.glob(name))]
    if missing:
        raise StartRefusedError(f"the base model's folder {folder} lacks {', '.join(missing)}")
    return folder


async def _downloaded(repo: str, commit: str, hub: HubClient, cache: Path, token: str) -> Path:
    started = time.monotonic()
    _log.info("base_model_download_started", repo=repo, commit=commit)
    while True:
        try:
            folder = await asyncio.to_thread(
                hub.snapshot, repo, commit, cache, patterns=PATTERNS, token=token
            )
        except errors.UnavailableError as error:
            _log.warning(
                "waiting_for_hub", reason=error.reason, message=error.message, seconds=error.retry_after
            )
            await asyncio.sleep(error.retry_after)
        except errors.ServiceError as error:
            raise StartRefusedError(f"the base model cannot be downloaded: {error.message}") from None
        else:
            _log.info("base_model_downloaded", repo=repo, seconds=round(time.monotonic() - started, 1))
            return folder
