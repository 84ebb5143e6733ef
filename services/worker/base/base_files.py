"""Where the base model's files are: in a folder that registry and worker share, or fetched from the Hub."""

import asyncio
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from services.common import errors, logs
from services.common.adapters import strict_json
from services.common.hub import HubClient

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
# Nothing that could be executed.
TEXTS = (
    "config.json",
    "generation_config.json",
    _INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_NEEDED = ("config.json", "tokenizer.json", "*.safetensors")

_FILE = re.compile(r"[\w][\w.-]*\.safetensors")

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
            folder = await asyncio.to_thread(_fetch, repo, commit, hub, cache, token)
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


def _fetch(repo: str, commit: str, hub: HubClient, cache: Path, token: str) -> Path:
    """What is loaded and no more: a repo may hold its weights a second time, in another form or whole beside shards."""
    folder = hub.snapshot(repo, commit, cache, patterns=TEXTS, token=token)
    return hub.snapshot(repo, commit, cache, patterns=(*TEXTS, *_weight_files(folder)), token=token)


def _weight_files(folder: Path) -> Collection[str]:
    """The files that the base's index names; one that has none has its weights in one file. Raises StartRefusedError."""
    try:
        index = strict_json.parse_object((folder / _INDEX).read_bytes())
    except FileNotFoundError:
        return (_WEIGHTS,)
    except strict_json.StrictJsonError as error:
        raise StartRefusedError(f"the base model's {_INDEX} is not what it should be: {error}") from None
    weight_map = index.get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and _FILE.fullmatch(name) for name in names):
        raise StartRefusedError(f"the base model's {_INDEX} does not name its files of weights")
    return set(names)
