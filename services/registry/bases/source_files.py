"""A base model's own files: where they are read from, and what the registry takes from them."""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from services.common.adapters import strict_json
from services.common.errors import ServiceError
from services.registry.admission import safetensors_header as safetensors
from services.registry.bases import base_modules, tokenizer_files
from services.registry.bases.base_list import BaseListError, BaseModelEntry
from services.registry.bases.base_model import BaseModel, BaseModule, ModuleKind, Tokenizer
from services.registry.hub_reader import HubCommit, HubReader

_MAX_TEXT_BYTES = 64 * 1024**2
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTABLE = (ModuleKind.LINEAR, ModuleKind.EMBEDDING, ModuleKind.OUTPUT)


class BaseFiles(Protocol):
    """The files of one base model at one commit."""

    @property
    def commit(self) -> str:
        """Names these very files."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes by file name."""
        ...

    async def read(self, name: str, length: int) -> bytes:
        """The first `length` bytes of a file, or as many as it has."""
        ...


class LocalBaseFiles:
    """A folder. Its commit is a digest over what decides what the model computes."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], commit: str) -> None:
        self._folder = folder
        self.sizes = sizes
        self.commit = commit

    @classmethod
    async def open(cls, folder: Path) -> "LocalBaseFiles":
        """Raises OSError where the folder cannot be read."""
        return await asyncio.to_thread(cls._look, folder)

    @classmethod
    def _look(cls, folder: Path) -> "LocalBaseFiles":
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        return cls(folder, sizes, _digest(folder, sizes))

    async def read(self, name: str, length: int) -> bytes:
        def read() -> bytes:
            with (self._folder / name).open("rb") as file:
                return file.read(length)

        return await asyncio.to_thread(read)


class HubBaseFiles:
    """A Hub repo at one commit."""

    def __init__(self, hub: HubReader, at: HubCommit, token: str) -> None:
        self._hub = hub
        self._at = at
        self._token = token
        self.commit = at.commit
        self.sizes = {name: file.size for name, file in at.files.items()}

    async def read(self, name: str, length: int) -> bytes:
        return await self._hub.read(self._at, name, token=self._token, length=length)


async def resolve_base(entry: BaseModelEntry, hub: HubReader, hub_token: str) -> BaseModel:
    """Look at the files of an entry. Raises BaseListError, naming the entry and the file."""
    try:
        files = await _open(entry, hub, hub_token)
        config = await _read_json(files, "config.json")
        tied = config.get("tie_word_embeddings")
        modules = base_modules.read_modules(
            await _read_shapes(files), config.get("model_type"), tied=tied if isinstance(tied, bool) else None
        )
        tokenizer = await _read_tokenizer(files)
        target_modules = _targets(entry, modules)
        context_length = _context_length(config)
    except (ServiceError, OSError, ValueError) as error:
        raise BaseListError(f"base_model {entry.name!r}: {error}") from error
    return BaseModel(
        name=entry.name,
        hub_ids=tuple(entry.hub_ids),
        local_path=entry.local_path or "",
        hub_repo=entry.hub_repo or "",
        commit=files.commit,
        context_length=context_length,
        max_lora_rank=entry.max_lora_rank,
        target_modules=target_modules,
        price=entry.price(),
        modules=modules,
        tokenizer=tokenizer,
        revision=entry.revision or "",
        model_type=model_type if isinstance(model_type := config.get("model_type"), str) else "",
    )


async def _open(entry: BaseModelEntry, hub: HubReader, hub_token: str) -> BaseFiles:
    if entry.local_path is not None:
        return await LocalBaseFiles.open(Path(entry.local_path))
    at = await hub.resolve(entry.hub_repo or "", entry.revision or "", token=hub_token)
    return HubBaseFiles(hub, at, hub_token)


def _digest(folder: Path, names: Mapping[str, int]) -> str:
    """`sha256:` and the SHA-256 over `<file's SHA-256>  <name>` lines in the order of names, as sha256sum prints."""
    lines = []
    for name in sorted(names):
        if name in ("config.json", "tokenizer.json") or name.endswith(".safetensors"):
            with (folder / name).open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


async def _read_shapes(files: BaseFiles) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by name, from the headers of all weight files."""
    shards = [_WEIGHTS]
    if _WEIGHTS not in files.sizes and _INDEX in files.sizes:
        weight_map = (await _read_json(files, _INDEX)).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{_INDEX}: weight_map must be an object from tensor to file")
        shards = sorted({str(shard) for shard in weight_map.values()})
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        size = _size(files, shard)
        prefix = await files.read(shard, safetensors.LENGTH_BYTES)
        data = await files.read(shard, safetensors.header_end(prefix, file_size=size))
        tensors = safetensors.parse_header(data[safetensors.LENGTH_BYTES :], file_size=size)
        shapes |= {name: tensor.shape for name, tensor in tensors.items()}
    return shapes


async def _read_tokenizer(files: BaseFiles) -> Tokenizer:
    config = await _read_json(files, tokenizer_files.TOKENIZER_CONFIG)
    template = tokenizer_files.chat_template(config.get("chat_template"))
    if tokenizer_files.TEMPLATE in files.sizes:
        template = (await _read_whole(files, tokenizer_files.TEMPLATE)).decode()
    tokenizer_json = await _read_whole(files, tokenizer_files.TOKENIZER)
    return Tokenizer(
        tokenizer_json=tokenizer_json,
        chat_template=template,
        special_tokens=tokenizer_files.special_tokens(config),
        added_tokens=await asyncio.to_thread(tokenizer_files.added_tokens, tokenizer_json),
    )


def _targets(entry: BaseModelEntry, modules: Mapping[str, BaseModule]) -> tuple[str, ...]:
    """Last parts of the paths that adapters may adapt: those that the operator names, else all."""
    known = {path.rpartition(".")[2] for path, module in modules.items() if module.kind in _ADAPTABLE}
    if entry.target_modules is None:
        return tuple(sorted(known))
    for target in entry.target_modules:
        if target not in known:
            raise ValueError(f"target_modules holds {target!r}; its modules are {', '.join(sorted(known))}")
    return tuple(entry.target_modules)


def _context_length(config: Mapping[str, Any]) -> int:  # Any: JSON values
    """The longest context that the model was made for. Raises ValueError where its config does not say."""
    # GPT-2 calls it n_positions; a model of texts and images keeps its text model's config apart.
    text = config.get("text_config")
    places = (config, text) if isinstance(text, dict) else (config,)
    for key in ("max_position_embeddings", "n_positions"):
        for place in places:
            if key in place:
                value = place[key]
                if not strict_json.is_int(value) or value < 1:
                    raise ValueError(
                        f"config.json: {key} is {value!r}; it must be a whole number of at least 1"
                    )
                return int(value)
    raise ValueError(
        "config.json: max_position_embeddings is missing; it must be a whole number of at least 1"
    )


async def _read_json(files: BaseFiles, name: str) -> dict[str, Any]:  # Any: JSON values
    try:
        return strict_json.parse_object(await _read_whole(files, name))
    except strict_json.StrictJsonError as error:
        raise ValueError(f"{name}: {error}") from None


async def _read_whole(files: BaseFiles, name: str) -> bytes:
    size = _size(files, name)
    if size > _MAX_TEXT_BYTES:
        raise ValueError(f"{name} has {size} bytes; it must have at most {_MAX_TEXT_BYTES}")
    return await files.read(name, max(size, 1))


def _size(files: BaseFiles, name: str) -> int:
    if name not in files.sizes:
        raise ValueError(f"there is no file {name}")
    return files.sizes[name]
