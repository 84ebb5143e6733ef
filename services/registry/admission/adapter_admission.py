"""Admission of an adapter, steps 1 to 4: from a repo on the Hub to a version that a worker may fetch.

The fifth, the weights themselves, is the worker's. Nothing is written to disk, and nothing from the Hub is
executed.
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from services.common.adapters.config import MAX_BYTES
from services.common.adapters.refusals import CONFIG, WEIGHTS
from services.common.errors import InvalidFieldError, PreconditionError
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.admission import base_rules, header_check
from services.registry.admission import safetensors_header as safetensors
from services.registry.admission.base_rules import FittedConfig
from services.registry.admission.header_check import AdapterModules
from services.registry.admission.repo_extras import ExtrasReader
from services.registry.bases.base_model import BaseModel
from services.registry.deployments.deployment import AdapterVersion, RepoExtras
from services.registry.hub_reader import HubCommit, HubReader

# Most headers fit, so that one request is enough.
_FIRST_READ = 128 * 1024
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_PICKLED_WEIGHTS = re.compile(r"adapter_model\.(bin|pt|pth|ckpt|pkl)")
_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.safetensors")
_SHOWN_FILES = 5


class Admission:
    """Checks adapters against base models."""

    def __init__(self, hub: HubReader, templates: TemplateSandbox, *, max_bytes: int) -> None:
        """`max_bytes` bounds both files together."""
        self._hub = hub
        self._extras = ExtrasReader(hub, templates)
        self._max_bytes = max_bytes

    async def admit(
        self,
        hub_repo: str,
        revision: str,
        *,
        token: str,
        base: BaseModel,
        accept_base_name: bool = False,
        use_base_template: bool = False,
    ) -> AdapterVersion:
        """The version that `revision` of a repo stands for now, checked in full but for its weights' values.

        `accept_base_name`: it is for `base`, whatever base its config names. `use_base_template`: what the repo has
        beside the adapter is not looked at.

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
        # In threads, this and the header's check: a large one takes a while, and the loop has leases to keep.
        fitted = await asyncio.to_thread(
            base_rules.parse_config, config_bytes, base, accept_base_name=accept_base_name
        )
        modules = await self._check_header(at, token, fitted, base)
        extras = RepoExtras() if use_base_template else await self._extras.read(at, token=token, base=base)
        weights = at.files[WEIGHTS]
        return AdapterVersion(
            hub_repo=hub_repo,
            commit=at.commit,
            config_sha256=hashlib.sha256(config_bytes).hexdigest(),
            weights_sha256=weights.sha256 or await self._hub.sha256(at, WEIGHTS, token=token),
            size_bytes=size,
            rank=modules.rank,
            target_modules=modules.target_modules,
            extras=extras,
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
    others = sorted(name for name in at.files if PurePosixPath(name).suffix in _WEIGHT_SUFFIXES)
    metadata = {
        "repo": at.repo,
        "commit": at.commit,
        "files": ", ".join(missing),
        "found": ", ".join(others[:_SHOWN_FILES]),
    }
    pickled = [name for name in others if _PICKLED_WEIGHTS.fullmatch(name)]
    if missing == [WEIGHTS] and pickled:
        raise PreconditionError(
            "ADAPTER_PICKLE_ONLY",
            at.repo,
            f"the Hub repo {at.repo} has its weights as {pickled[0]} only, which executes code when it is loaded; "
            f"save them as {WEIGHTS} (PEFT's save_pretrained does)",
            metadata,
        )
    raise PreconditionError(
        "ADAPTER_FILES_MISSING",
        at.repo,
        f"the Hub repo {at.repo} has no {' and no '.join(missing)} at commit {at.commit}; "
        f"a LoRA adapter has both in its top folder, the weights in one file. {_what_is_there(others)}",
        metadata,
    )


def _what_is_there(names: Sequence[str]) -> str:
    """What the repo has instead, and the way out, where there is one."""
    if not names:
        return "There are no weights in it"
    shown = ", ".join(names[:_SHOWN_FILES]) + (", ..." if len(names) > _SHOWN_FILES else "")
    folders = sorted(
        {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == WEIGHTS}
    )
    if folders:
        way = f": move an adapter from its folder ({folders[0]}) to the top of a repo"
    elif any(_SHARD.fullmatch(name) for name in names):
        way = ": shards, which PEFT does not load either; save the adapter unsharded"
    elif "adapters.safetensors" in names:
        way = ": an adapter of MLX's own form, to be converted to PEFT's"
    else:
        way = ""
    return f"What is there: {shown}{way}"
