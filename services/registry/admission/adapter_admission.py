"""Admission of an adapter, steps 1 to 4: from a repo on the Hub to a version that a worker may fetch.

The fifth, the weights themselves, is the worker's. Nothing is written to disk, and nothing from the Hub is
executed.
"""

import asyncio
import hashlib
from pathlib import PurePosixPath

from services.common.adapters.config import MAX_BYTES
from services.common.adapters.refusals import CONFIG, WEIGHTS
from services.common.errors import InvalidFieldError, PreconditionError
from services.registry.admission import base_rules, header_check
from services.registry.admission import safetensors_header as safetensors
from services.registry.admission.base_rules import FittedConfig
from services.registry.admission.header_check import AdapterModules
from services.registry.bases.base_model import BaseModel
from services.registry.deployments.deployment import AdapterVersion
from services.registry.hub_reader import HubCommit, HubReader

# Most headers fit, so that one request is enough.
_FIRST_READ = 128 * 1024
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


class Admission:
    """Checks adapters against base models."""

    def __init__(self, hub: HubReader, *, max_bytes: int) -> None:
        """`max_bytes` bounds both files together."""
        self._hub = hub
        self._max_bytes = max_bytes

    async def admit(self, hub_repo: str, revision: str, *, token: str, base: BaseModel) -> AdapterVersion:
        """The version that `revision` of a repo stands for now, checked in full but for its weights' values.

        Raises a ServiceError whose reason is stable: HUB_* of services.common.hub, ADAPTER_* of this package.
        """
        at = await self._hub.resolve(hub_repo, revision, token=token)
        _check_files(at)
        size = sum(at.files[name].size for name in (CONFIG, WEIGHTS))
        if size > self._max_bytes:
            raise InvalidFieldError(
                "adapter", f"{size} bytes", f"at most {self._max_bytes} bytes", reason="ADAPTER_TOO_LARGE"
            )
        config_bytes = await self._read_config(at, token)
        fitted = base_rules.parse_config(config_bytes, base)
        modules = await self._check_header(at, token, fitted, base)
        weights = at.files[WEIGHTS]
        return AdapterVersion(
            hub_repo=hub_repo,
            commit=at.commit,
            config_sha256=hashlib.sha256(config_bytes).hexdigest(),
            weights_sha256=weights.sha256 or await self._hub.sha256(at, WEIGHTS, token=token),
            size_bytes=size,
            rank=modules.rank,
            target_modules=modules.target_modules,
        )

    async def _read_config(self, at: HubCommit, token: str) -> bytes:
        size = at.files[CONFIG].size
        if size > MAX_BYTES:
            raise InvalidFieldError(
                CONFIG,
                f"{size} bytes",
                f"at most {MAX_BYTES} bytes",
                reason="ADAPTER_CONFIG_INVALID",
            )
        return await self._hub.read(at, CONFIG, token=token, length=MAX_BYTES)

    async def _check_header(
        self, at: HubCommit, token: str, fitted: FittedConfig, base: BaseModel
    ) -> AdapterModules:
        name = WEIGHTS
        size = at.files[name].size
        begin = await self._hub.read(at, name, token=token, length=_FIRST_READ)
        try:
            end = safetensors.header_end(begin, file_size=size)
        except safetensors.HeaderError as error:
            raise header_check.not_safetensors(error) from None
        if end > len(begin):
            begin = await self._hub.read(at, name, token=token, length=end)
        # In a thread: a header of megabytes takes a while, and the loop has leases to keep.
        return await asyncio.to_thread(
            header_check.check_header,
            begin[safetensors.LENGTH_BYTES : end],
            file_size=size,
            fitted=fitted,
            base=base,
        )


def _check_files(at: HubCommit) -> None:
    missing = [name for name in (CONFIG, WEIGHTS) if name not in at.files]
    if not missing:
        return
    metadata = {"repo": at.repo, "commit": at.commit, "files": ", ".join(missing)}
    pickles = sorted(name for name in at.files if PurePosixPath(name).suffix in _PICKLE_SUFFIXES)
    if missing == [WEIGHTS] and pickles:
        raise PreconditionError(
            "ADAPTER_PICKLE_ONLY",
            at.repo,
            f"the Hub repo {at.repo} has its weights as {pickles[0]} only, which executes code when it is loaded; "
            f"save them as {WEIGHTS} (PEFT's save_pretrained does)",
            metadata,
        )
    raise PreconditionError(
        "ADAPTER_FILES_MISSING",
        at.repo,
        f"the Hub repo {at.repo} has no {' and no '.join(missing)} at commit {at.commit}; "
        "a LoRA adapter has both in its top folder",
        metadata,
    )
