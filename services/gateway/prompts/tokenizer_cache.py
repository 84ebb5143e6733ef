"""The encoders of the base models in use, each fetched once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.common import errors, logs
from services.gateway.prompts.prompt_encoder import PromptEncoder, TokenizerFiles
from services.gateway.routes import BaseModel

_log = logs.get_logger(__name__)


@dataclass(frozen=True)
class _Entry:
    commit: str
    task: asyncio.Task[PromptEncoder]

    def serves(self, base: BaseModel) -> bool:
        if self.commit != base.commit or self.task.cancelled():
            return False
        return not self.task.done() or self.task.exception() is None


class TokenizerCache:
    """Holds one encoder for each base model, that of its present commit."""

    def __init__(self, fetch: Callable[[str], Awaitable[TokenizerFiles]]) -> None:
        """`fetch` asks the registry for a base model's files, and may raise UnavailableError."""
        self._fetch = fetch
        self._entries: dict[str, _Entry] = {}

    async def encoder(self, base: BaseModel) -> PromptEncoder:
        """The encoder of a base model, once it is here. Raises UnavailableError when it cannot be fetched."""
        return await asyncio.shield(self._entry(base).task)

    def prefetch(self, base: BaseModel) -> None:
        """Have the encoder here before a request needs it, or the registry is away."""
        self._entry(base)

    async def stop(self) -> None:
        """End what is being fetched."""
        tasks = [entry.task for entry in self._entries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _entry(self, base: BaseModel) -> _Entry:
        entry = self._entries.get(base.name)
        if entry is None or not entry.serves(base):
            entry = _Entry(commit=base.commit, task=asyncio.create_task(self._load(base)))
            # Nobody may be waiting for it, and its error is then told to the log alone.
            entry.task.add_done_callback(_report)
            self._entries[base.name] = entry
        return entry

    async def _load(self, base: BaseModel) -> PromptEncoder:
        files = await self._fetch(base.name)
        if files.commit != base.commit:
            raise errors.UnavailableError(
                "BASE_MODEL_CHANGING",
                f"base model {base.name} is being replaced by another version",
                retry_after=1.0,
            )
        return await asyncio.to_thread(PromptEncoder, files)


def _report(task: asyncio.Task[PromptEncoder]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("tokenizer_not_loaded", error=str(error))
