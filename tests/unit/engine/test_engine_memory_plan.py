"""What an engine takes of the memory that a machine, or a container's limit, has left."""

import os
from pathlib import Path

import pytest
import torch

from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.memory_plan import (
    NotEnoughMemoryError,
    bytes_per_token,
    host_bytes,
    plan_memory,
)
from services.worker.engine.local.torch_form.kv_cache import KvShape
from tests.support.engine import answer, running_engine
from tests.support.models import write_tiny_base

GIB = 1024**3
STAT = "anon 5\ninactive_file 100\nactive_file 23\ntotal_inactive_file 1000\ntotal_active_file 200"


def machine(folder: Path, *, groups: str = "0::/", available_kib: int = 1_000) -> tuple[Path, Path, Path]:
    (folder / "meminfo").write_text(f"MemTotal: 99999 kB\nMemAvailable:  {available_kib} kB\n")
    (folder / "groups").write_text(groups + "\n")
    (folder / "root").mkdir()
    return folder / "meminfo", folder / "groups", folder / "root"


def limit(group: Path, **files: str | int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("__", ".")).write_text(f"{text}\n")


def test_what_the_machine_has_where_nothing_limits(tmp_path: Path) -> None:
    places = machine(tmp_path)
    limit(places[2], memory__max="max", memory__current=5)
    assert host_bytes(*places) == 1_024_000


def test_a_containers_limit_less_what_it_uses_but_for_pages_of_files(tmp_path: Path) -> None:
    places = machine(tmp_path)
    limit(places[2], memory__max=500_000, memory__current=200_000, memory__stat=STAT)
    assert host_bytes(*places) == 300_123


def test_a_limit_further_up_counts_too(tmp_path: Path) -> None:
    places = machine(tmp_path, groups="0::/pod/container")
    limit(places[2] / "pod", memory__max=100_000, memory__current=90_000)
    limit(places[2] / "pod" / "container", memory__max="max", memory__current=80_000)
    assert host_bytes(*places) == 10_000


def test_the_limit_of_an_older_kernel(tmp_path: Path) -> None:
    places = machine(tmp_path, groups="7:cpu,cpuacct:/x\n4:memory:/docker/1")
    limit(
        places[2] / "memory",
        memory__limit_in_bytes=500_000,
        memory__usage_in_bytes=400_000,
        memory__stat=STAT,
    )
    assert host_bytes(*places) == 101_200


def test_the_lower_of_two_limits_and_lines_that_nobody_expects(tmp_path: Path) -> None:
    places = machine(tmp_path, groups="odd\n0::/\n7:memory")
    stat = "inactive_file 100\n\nodd\nactive_file many\nactive_file 20 30"
    limit(places[2], memory__max=900_000, memory__high=500_000, memory__current=200_000, memory__stat=stat)
    assert host_bytes(*places) == 300_100


def test_a_host_that_does_not_say_has_what_there_is(tmp_path: Path) -> None:
    there_is = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host_bytes(tmp_path / "none", tmp_path / "none", tmp_path) == there_is


def test_a_group_that_uses_more_than_it_may_leaves_nothing(tmp_path: Path) -> None:
    places = machine(tmp_path)
    limit(places[2], memory__max=500, memory__current=600)
    assert host_bytes(*places) == 0


def test_this_machine_has_some() -> None:
    assert 0 < host_bytes() < 1 << 50


def test_keys_and_values_of_a_token_in_all_layers() -> None:
    shapes = [KvShape(3, 64, 64), KvShape(2, 20, 40)]
    assert bytes_per_token(shapes, torch.bfloat16) == 2 * (3 * 128 + 2 * (32 + 48))


def test_half_is_for_keys_and_values_and_half_of_the_rest_for_adapters() -> None:
    plan = plan_memory(EngineConfig(Path()), left=8 * GIB, token_bytes=1 << 16, context_length=8_192)
    assert plan.kv_blocks == 4 * GIB // (16 << 16)
    assert plan.adapter_bytes == 2 * GIB


def test_no_more_keys_and_values_than_all_sequences_could_have() -> None:
    config = EngineConfig(Path(), max_sequences=4)
    plan = plan_memory(config, left=8 * GIB, token_bytes=1_024, context_length=2_048)
    assert plan.kv_blocks == 4 * 2_048 // 16
    assert plan.adapter_bytes == (8 * GIB - 4 * 2_048 * 1_024) // 2


def test_what_the_operator_says_holds_whatever_is_left() -> None:
    config = EngineConfig(Path(), kv_tokens=100, adapter_bytes=77)
    plan = plan_memory(config, left=10, token_bytes=1_024, context_length=2_048)
    assert (plan.kv_blocks, plan.adapter_bytes) == (7, 77)


def test_a_context_that_is_no_multiple_of_a_block_fits_whole() -> None:
    for context, blocks in ((1_000, 63), (8, 1)):
        config = EngineConfig(Path(), max_sequences=1)
        plan = plan_memory(config, left=8 * GIB, token_bytes=1_024, context_length=context)
        assert plan.kv_blocks == blocks


def test_keys_and_values_that_leave_nothing_for_adapters_are_refused_by_their_bytes() -> None:
    config = EngineConfig(Path(), kv_tokens=1_000)
    with pytest.raises(NotEnoughMemoryError, match=r"kv_tokens 1,000 takes 1,032,192 of the 500,000 bytes"):
        plan_memory(config, left=500_000, token_bytes=1_024, context_length=2_048)


def test_too_little_for_a_block_is_refused_by_its_bytes() -> None:
    with pytest.raises(NotEnoughMemoryError, match=r"30,000 bytes .* 32,768 bytes"):
        plan_memory(EngineConfig(Path()), left=30_000, token_bytes=1_024, context_length=2_048)


async def test_an_engine_says_what_it_takes_and_warns_where_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_tiny_base(tmp_path)
    async with running_engine(base, kv_tokens=0, max_sequences=3) as engine:
        assert engine.stats().kv_blocks == 3 * engine.context_length // 16
        await answer(engine, [5])
    said = capsys.readouterr().out
    assert "memory_planned" in said
    assert "memory_may_run_out" not in said
    monkeypatch.setattr("services.worker.engine.local.engine_parts.free_bytes", lambda _: 10_000)
    async with running_engine(base, kv_tokens=4_096, adapter_bytes=10_000) as engine:
        assert engine.stats().kv_blocks == 256
    assert "memory_may_run_out" in capsys.readouterr().out
    with pytest.raises(NotEnoughMemoryError):
        async with running_engine(base, kv_tokens=0):
            pass
