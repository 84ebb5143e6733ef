"""What a worker fetches of a base's repo, from a hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux.localhub import LocalHub, running
from services.common.hub import HubClient
from services.worker.base.base_files import BaseSource, StartRefusedError, base_folder

TEXTS = {"config.json": b"{}", "tokenizer.json": b"{}", "chat_template.jinja": b"x"}
BESIDE = {
    "consolidated.safetensors": b"again",
    "model.fp16.safetensors": b"again",
    "pytorch_model.bin": b"again",
    "original/model.safetensors": b"again",
    "modeling.py": b"import os",
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    yield hub
    hub.close()


async def fetched(hub: LocalHub, tmp_path: Path, files: dict[str, bytes]) -> set[str]:
    hub.add_repo("org/base", {**TEXTS, **files})
    with running(hub) as endpoint:
        source = BaseSource(hub.commit("org/base"), hub_repo="org/base")
        folder = await base_folder(source, HubClient(endpoint), tmp_path / "cache", token="")
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def index(*names: object) -> bytes:
    return json.dumps({"weight_map": {f"tensor{place}": name for place, name in enumerate(names)}}).encode()


async def test_of_weights_in_one_file_nothing_else_is_fetched(hub: LocalHub, tmp_path: Path) -> None:
    assert await fetched(hub, tmp_path, {"model.safetensors": b"w", **BESIDE}) == {
        *TEXTS,
        "model.safetensors",
    }


async def test_of_shards_those_that_the_index_names(hub: LocalHub, tmp_path: Path) -> None:
    shards = {"model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}
    named = {"model.safetensors.index.json": index(*shards, *shards), **shards}
    assert await fetched(hub, tmp_path, {**named, "model.safetensors": b"whole", **BESIDE}) == {
        *TEXTS,
        *named,
    }


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{", b'{"weight_map": {}}', index("../up.safetensors"), index("*.safetensors"), index(3)],
)
async def test_an_index_that_names_no_files_is_refused(hub: LocalHub, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(StartRefusedError, match=r"model\.safetensors\.index\.json"):
        await fetched(hub, tmp_path, {"model.safetensors.index.json": content, "model.safetensors": b"w"})
