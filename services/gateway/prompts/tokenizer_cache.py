"""What prompts are made with: the encoders of the base models in use, and what adapters' repos bring."""

import asyncio
from collections.abc import Awaitable, Callable

from services.common import errors
from services.common.templates.template_sandbox import TemplateSandbox
from services.gateway.prompts.fetch_cache import FetchCache
from services.gateway.prompts.prompt_encoder import NO_EXTRAS, PromptEncoder, RepoExtras, TokenizerFiles
from services.gateway.routes import BaseModel

_MOST_BASES = 1_024
_MOST_EXTRAS = 1_024
"""Of at most 64 KiB and some special tokens each."""
_FETCHES_AT_ONCE = 8


class TokenizerCache:
    """Holds one encoder for each base model, that of its present commit."""

    def __init__(self, fetch: Callable[[str], Awaitable[TokenizerFiles]], templates: TemplateSandbox) -> None:
        """`fetch` asks the registry for a base model's files, and may raise UnavailableError."""
        self._fetch = fetch
        self._templates = templates
        self._commits: dict[str, str] = {}
        self._encoders = FetchCache(self._load, size=_MOST_BASES, at_once=_FETCHES_AT_ONCE)

    async def encoder(self, base: BaseModel) -> PromptEncoder:
        """The encoder of a base model, once it is here. Raises UnavailableError when it cannot be fetched."""
        return await self._encoders.get(self._key(base))

    def prefetch(self, base: BaseModel) -> None:
        """Have the encoder here before a request needs it, or the registry is away."""
        self._encoders.prefetch(self._key(base))

    async def stop(self) -> None:
        """End what is being fetched."""
        await self._encoders.stop()

    def _key(self, base: BaseModel) -> tuple[str, str]:
        before = self._commits.get(base.name, base.commit)
        if before != base.commit:
            self._encoders.drop((base.name, before))
        self._commits[base.name] = base.commit
        return (base.name, base.commit)

    async def _load(self, key: tuple[str, str]) -> PromptEncoder:
        name, commit = key
        files = await self._fetch(name)
        if files.commit != commit:
            raise errors.UnavailableError(
                "BASE_MODEL_CHANGING",
                f"base model {name} is being replaced by another version",
                retry_after=1.0,
            )
        return await asyncio.to_thread(PromptEncoder, files, self._templates)


class ExtrasCache:
    """Holds what the repos of adapters bring, by the digest that routes name. It never changes under one digest."""

    def __init__(self, fetch: Callable[[str], Awaitable[RepoExtras]]) -> None:
        """`fetch` asks the registry, and may raise UnavailableError."""
        self._extras = FetchCache(fetch, size=_MOST_EXTRAS, at_once=_FETCHES_AT_ONCE)

    async def get(self, sha256: str) -> RepoExtras:
        """What has this digest; empty is nothing. Raises UnavailableError when it cannot be fetched."""
        return await self._extras.get(sha256) if sha256 else NO_EXTRAS

    def prefetch(self, sha256: str) -> None:
        """Have it here before a request needs it, or the registry is away."""
        if sha256:
            self._extras.prefetch(sha256)

    async def stop(self) -> None:
        """End what is being fetched."""
        await self._extras.stop()
