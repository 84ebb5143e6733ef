"""Admission against the real Hub client and a local Hub: what passes, and every way to be refused."""

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from loramux.localhub import CutConnection, LocalHub, Refuse, running
from services.common.errors import InvalidFieldError, PreconditionError, ServiceError, UnavailableError
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.admission.adapter_admission import Admission
from services.registry.bases.base_list import read_base_list
from services.registry.bases.base_model import BaseModel
from services.registry.bases.source_files import resolve_base
from services.registry.deployments.deployment import AdapterVersion
from services.registry.hub_reader import HubReader
from tests.support.registry import (
    BASE,
    HUB_ID,
    IN,
    MODULES,
    OUT,
    adapter_config,
    adapter_files,
    adapter_tensors,
    base_list,
    safetensors,
    write_base,
)

REPO = "acme/adapter"
TOKEN = "hf_alices_own_token"
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


class Bench:
    """A Hub, and an admission that reads from it."""

    def __init__(self, hub: LocalHub, endpoint: str, base: BaseModel) -> None:
        self.hub = hub
        self.reader = HubReader(endpoint, patience=0)
        self.base = base

    async def admit(
        self, files: Mapping[str, bytes] | None = None, *, revision: str = "", token: str = "",
        max_bytes: int = 10**6,
    ) -> AdapterVersion:  # fmt: skip
        if files is not None:
            self.hub.add_repo(REPO, files)
        admission = Admission(self.reader, TemplateSandbox(), max_bytes=max_bytes)
        return await admission.admit(REPO, revision, token=token, base=self.base)

    async def refusal(self, files: Mapping[str, bytes] | None = None, **options: str) -> ServiceError:
        with pytest.raises(ServiceError) as caught:
            await self.admit(files, **options)  # type: ignore[arg-type]  # strings only
        assert TOKEN not in str(caught.value)
        assert TOKEN not in str(caught.value.metadata)
        return caught.value


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    hub.add_token(TOKEN, "alice")
    yield hub
    hub.close()


@pytest.fixture
async def bench(tmp_path: Path, hub: LocalHub) -> AsyncIterator[Bench]:
    bases = tmp_path / "bases.toml"
    bases.write_text(base_list(write_base(tmp_path / "base")))
    async with running(hub) as endpoint:
        base = await resolve_base(read_base_list(bases)[0], HubReader(endpoint, patience=0), "")
        yield Bench(hub, endpoint, base)


async def test_an_adapter_is_pinned_to_its_commit_and_its_content(bench: Bench) -> None:
    files = adapter_files()
    version = await bench.admit(files)
    config_sha256 = hashlib.sha256(files["adapter_config.json"]).hexdigest()
    weights_sha256 = hashlib.sha256(files["adapter_model.safetensors"]).hexdigest()
    assert version == AdapterVersion(
        hub_repo=REPO,
        commit=bench.hub.commit(REPO),
        config_sha256=config_sha256,
        weights_sha256=weights_sha256,
        size_bytes=sum(len(content) for content in files.values()),
        rank=2,
        target_modules=("q_proj", "v_proj"),
    )
    assert version.digest == hashlib.sha256(f"{config_sha256}\n{weights_sha256}\n".encode()).hexdigest()


async def test_only_the_two_files_are_fetched_and_of_the_weights_only_the_header(bench: Bench) -> None:
    await bench.admit({**adapter_files(), "evil.py": b"import os", "optimizer.pt": b"\x80pickle"})
    resolved = [one for one in bench.hub.requests if one.kind == "resolve"]
    assert {one.path for one in resolved} == {"adapter_config.json", "adapter_model.safetensors"}
    assert all(one.range for one in resolved)


async def test_a_tag_or_an_older_commit_can_be_asked_for(bench: Bench) -> None:
    bench.hub.add_repo(REPO, adapter_files())
    first = bench.hub.add_tag(REPO, "v1")
    bench.hub.add_repo(REPO, adapter_files(adapter_config(lora_alpha=8)))
    latest = await bench.admit()
    assert (await bench.admit(revision="v1")).commit == first
    assert (await bench.admit(revision=first)).commit == first
    assert latest.commit != first


async def test_a_private_repo_opens_with_its_token(bench: Bench) -> None:
    bench.hub.add_repo(REPO, adapter_files(), private=True)
    assert (await bench.admit(token=TOKEN)).rank == 2


async def test_patterns_give_each_module_its_rank(bench: Bench) -> None:
    tensors = {
        **adapter_tensors(2),
        **adapter_tensors(4, modules=("model.layers.1.self_attn.v_proj",)),
    }
    config = adapter_config(rank_pattern={"layers.1.self_attn.v_proj": 4}, alpha_pattern={"v_proj": 16})
    assert (await bench.admit(adapter_files(config, tensors))).rank == 4


async def test_weights_outside_lfs_are_hashed_by_fetching_them(bench: Bench) -> None:
    content = bytes(range(256)) * 9000
    bench.hub.add_repo(REPO, {"weights.dat": content})
    at = await bench.reader.resolve(REPO, "", token="")
    assert at.files["weights.dat"].sha256 == ""
    assert await bench.reader.sha256(at, "weights.dat", token="") == hashlib.sha256(content).hexdigest()


async def test_a_header_beyond_the_first_read_is_fetched_whole(bench: Bench) -> None:
    weights = safetensors(adapter_tensors())
    length = struct.unpack("<Q", weights[:8])[0]
    padded = weights[8 : 8 + length] + b" " * 300_000
    grown = struct.pack("<Q", len(padded)) + padded + weights[8 + length :]
    assert (await bench.admit({**adapter_files(), "adapter_model.safetensors": grown})).rank == 2


class TestTheHubRefuses:
    async def test_a_repo_that_does_not_exist(self, bench: Bench) -> None:
        error = await bench.refusal(token=TOKEN)
        assert (error.reason, error.metadata["repo"]) == ("HUB_REPO_NOT_FOUND", REPO)

    async def test_a_private_repo_without_a_token(self, bench: Bench) -> None:
        bench.hub.add_repo(REPO, adapter_files(), private=True)
        error = await bench.refusal()
        assert error.reason == "HUB_REPO_PRIVATE"
        assert "token" in error.message

    async def test_a_wrong_token(self, bench: Bench) -> None:
        bench.hub.add_repo(REPO, adapter_files(), private=True)
        assert (await bench.refusal(token="hf_somebody_elses")).reason == "HUB_TOKEN_REFUSED"

    async def test_a_gated_repo_without_access(self, bench: Bench) -> None:
        bench.hub.add_repo(REPO, adapter_files(), gated=True, allowed_users=["bob"])
        assert (await bench.refusal()).reason == "HUB_REPO_GATED"
        assert (await bench.refusal(token=TOKEN)).reason == "HUB_REPO_GATED"

    async def test_a_revision_that_does_not_exist(self, bench: Bench) -> None:
        error = await bench.refusal(adapter_files(), revision="v9")
        assert (error.reason, error.metadata["revision"]) == ("HUB_REVISION_NOT_FOUND", "v9")


class TestTheHubIsOutOfReach:
    async def test_it_is_asked_again_and_the_adapter_passes(self, bench: Bench) -> None:
        failures = iter([Refuse(503), Refuse(503)])
        bench.hub.fault = lambda _request: next(failures, None)
        bench.reader = HubReader(bench.reader._endpoint, patience=2)
        assert (await bench.admit(adapter_files())).rank == 2

    async def test_it_fails_once_patience_is_used_up(self, bench: Bench) -> None:
        bench.hub.fault = lambda _request: Refuse(503)
        error = await bench.refusal(adapter_files())
        assert isinstance(error, UnavailableError)
        assert error.reason == "HUB_UNREACHABLE"

    async def test_nobody_listens(self, bench: Bench) -> None:
        bench.reader = HubReader("http://127.0.0.1:9", patience=0)
        assert (await bench.refusal()).reason == "HUB_UNREACHABLE"

    async def test_a_connection_cut_in_the_weights(self, bench: Bench) -> None:
        bench.hub.fault = lambda request: (
            CutConnection(100) if request.path == "adapter_model.safetensors" else None
        )
        error = await bench.refusal(adapter_files())
        assert error.reason == "HUB_UNREACHABLE"


async def test_a_caller_that_leaves_ends_the_hashing(bench: Bench) -> None:
    bench.hub.add_repo(REPO, {"weights.dat": bytes(1000)})
    at = await bench.reader.resolve(REPO, "", token="")
    task = asyncio.create_task(bench.reader.sha256(at, "weights.dat", token=""))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestFiles:
    async def test_weights_as_pickle_only(self, bench: Bench) -> None:
        error = await bench.refusal({"adapter_config.json": b"{}", "adapter_model.bin": b"\x80\x04pickle"})
        assert isinstance(error, PreconditionError)
        assert error.reason == "ADAPTER_PICKLE_ONLY"
        assert "adapter_model.bin" in error.message
        assert not [one for one in bench.hub.requests if one.kind == "resolve"]

    @pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
    async def test_one_of_the_two_is_missing(self, bench: Bench, missing: str) -> None:
        files = {name: content for name, content in adapter_files().items() if name != missing}
        error = await bench.refusal({**files, "README.md": b"hello"})
        assert (error.reason, error.metadata["files"]) == ("ADAPTER_FILES_MISSING", missing)

    async def test_both_together_are_too_large(self, bench: Bench) -> None:
        bench.hub.add_repo(REPO, adapter_files())
        with pytest.raises(InvalidFieldError) as caught:
            await bench.admit(max_bytes=100)
        assert caught.value.reason == "ADAPTER_TOO_LARGE"
        assert caught.value.metadata["bound"] == "at most 100 bytes"

    async def test_a_config_of_megabytes(self, bench: Bench) -> None:
        files = {**adapter_files(), "adapter_config.json": b" " * (1024**2 + 1)}
        with pytest.raises(InvalidFieldError) as caught:
            await bench.admit(files, max_bytes=10**7)
        assert caught.value.reason == "ADAPTER_CONFIG_INVALID"


async def test_a_rank_above_the_cap_names_rank_and_cap(bench: Bench) -> None:
    error = await bench.refusal(adapter_files(adapter_config(r=8), adapter_tensors(8)))
    assert error.reason == "ADAPTER_RANK_ABOVE_CAP"
    assert error.message == ("adapter_config.json: r is 8; it must be at most 4, the cap of base model tiny")


async def test_an_adapter_for_another_base_names_both(bench: Bench) -> None:
    error = await bench.refusal(adapter_files(adapter_config(base_model_name_or_path="org/Other")))
    assert error.reason == "ADAPTER_BASE_MISMATCH"
    assert error.metadata["value"] == "'org/Other'"
    assert HUB_ID in error.metadata["bound"]
    assert BASE in error.metadata["bound"]


async def test_a_setting_that_is_not_applied_is_refused_by_name(bench: Bench) -> None:
    error = await bench.refusal(adapter_files(adapter_config(target_parameters=["experts.up"])))
    assert error.reason == "ADAPTER_UNSUPPORTED"
    assert "target_parameters" in error.message


async def test_a_variant_passes_with_its_tensors_and_not_without_them(bench: Bench) -> None:
    config = adapter_config(use_dora=True, modules_to_save=["model.norm"])
    vectors = {f"base_model.model.{path}.lora_magnitude_vector": ("F32", (OUT,)) for path in MODULES}
    norm = {"base_model.model.model.norm.weight": ("F32", (IN,))}
    version = await bench.admit(adapter_files(config, {**adapter_tensors(), **vectors, **norm}))
    assert version.target_modules == ("norm", "q_proj", "v_proj")
    error = await bench.refusal(adapter_files(config, {**adapter_tensors(), **vectors}))
    assert error.reason == "ADAPTER_TENSORS_INVALID"
    assert "model.norm.weight is 'missing'" in error.message


async def test_tensors_of_another_shape_are_refused_before_they_are_fetched(bench: Bench) -> None:
    error = await bench.refusal(adapter_files(None, {**adapter_tensors(), A: ("F32", (2, 5))}))
    assert error.reason == "ADAPTER_TENSORS_INVALID"
    assert "[2, 5]" in error.message
    assert "[2, 4]" in error.message


async def test_a_file_that_is_no_safetensors_is_refused(bench: Bench) -> None:
    for content in (b"", b"\x01", b"\xff" * 64, b"PK\x03\x04 not safetensors at all"):
        error = await bench.refusal({**adapter_files(), "adapter_model.safetensors": content})
        assert error.reason == "ADAPTER_TENSORS_INVALID", content


async def test_a_base_from_the_hub_gives_the_same_shapes_as_from_a_folder(
    bench: Bench, tmp_path: Path
) -> None:
    bench.hub.add_repo("org/base", tmp_path / "base")
    bases = tmp_path / "hub-bases.toml"
    bases.write_text(base_list(tmp_path, local_path=None, hub_repo="org/base", revision="main"))
    base = await resolve_base(read_base_list(bases)[0], bench.reader, "")
    assert base == replace(
        bench.base,
        local_path="",
        hub_repo="org/base",
        revision="main",
        commit=bench.hub.commit("org/base"),
    )


async def test_a_sharded_base_is_read_from_all_its_shards(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, (path, module) in enumerate(bench.base.modules.items()):
        shard = f"model-{number}.safetensors"
        (folder / shard).write_bytes(safetensors({f"{path}.weight": ("F32", module.weight)}))
        weight_map[f"{path}.weight"] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    base = await resolve_base(read_base_list(tmp_path / "bases.toml")[0], bench.reader, "")
    assert base.modules == bench.base.modules
    assert base.commit.startswith("sha256:")
    assert base.commit != bench.base.commit
