"""The operator's list of base models: every error names the entry, the field, the value and the bound."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.registry.bases.base_list import BaseListError, BaseModelEntry, read_base_list
from services.registry.bases.base_model import Price
from tests.support.paths import REPOSITORY

ENTRY: dict[str, Any] = {
    "name": "tiny",
    "local_path": "/bases/tiny",
    "hub_ids": ["org/Tiny"],
    "max_lora_rank": 64,
    "target_modules": ["q_proj", "v_proj"],
    "prompt_pico_usd_per_token": 20_000,
    "completion_pico_usd_per_token": 60_000,
}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    lines = []
    for entry in entries:
        lines.append("[[base_model]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items() if value is not None]
    path.write_text("\n".join(lines))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BaseListError) as caught:
        read_base_list(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_entries_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    hub = {
        **ENTRY,
        "name": "hubbed",
        "local_path": None,
        "hub_repo": "org/Base",
        "revision": "v1",
        "hub_ids": ["org/Base"],
    }
    entries = read_base_list(write(tmp_path / "b.toml", ENTRY, hub))
    assert [(one.name, one.local_path, one.hub_repo, one.revision) for one in entries] == [
        ("tiny", "/bases/tiny", None, None),
        ("hubbed", None, "org/Base", "v1"),
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Tiny"}, ("name is 'Tiny'", "pattern")),
        ({"name": "a/b"}, ("name is 'a/b'",)),
        ({"name": None}, ("name is missing",)),
        ({"local_path": "relative"}, ("local_path is 'relative'",)),
        ({"local_path": None}, ("exactly one of local_path and hub_repo",)),
        ({"hub_repo": "org/Base"}, ("exactly one of local_path and hub_repo",)),
        ({"revision": "main"}, ("revision goes with hub_repo only",)),
        ({"hub_ids": []}, ("hub_ids", "at least 1 item")),
        ({"hub_ids": ["a b"]}, ("hub_ids.0 is 'a b'", "org/name")),
        ({"hub_ids": "org/Tiny"}, ("hub_ids is 'org/Tiny'", "list")),
        ({"max_lora_rank": 0}, ("max_lora_rank is 0", "greater than or equal to 1")),
        ({"max_lora_rank": 513}, ("max_lora_rank is 513", "less than or equal to 512")),
        ({"max_lora_rank": True}, ("max_lora_rank is True", "integer")),
        ({"max_lora_rank": "64"}, ("max_lora_rank is '64'", "integer")),
        ({"max_lora_rank": 64.0}, ("max_lora_rank is 64.0", "integer")),
        ({"target_modules": []}, ("target_modules", "at least 1 item")),
        ({"target_modules": ["self_attn.q_proj"]}, ("target_modules.0 is 'self_attn.q_proj'",)),
        ({"prompt_pico_usd_per_token": 3}, ("prompt_pico_usd_per_token is 3", "even")),
        (
            {"prompt_pico_usd_per_token": -2},
            ("prompt_pico_usd_per_token is -2", "greater than or equal to 0"),
        ),
        (
            {"completion_pico_usd_per_token": 10**13},
            ("completion_pico_usd_per_token is", "less than or equal"),
        ),
        ({"cached_prompt_pico_usd_per_token": 3}, ("cached_prompt_pico_usd_per_token is 3", "even")),
        ({"cached_prompt_pico_usd_per_token": 20_002}, ("is 20002", "at most the prompt's, 20000")),
        ({"color": "red"}, ("color is not a field",)),
    ],
)
def test_a_wrong_entry_is_told(tmp_path: Path, changes: dict[str, Any], told: tuple[str, ...]) -> None:
    other = {**ENTRY, "name": "fine", "hub_ids": ["org/Fine"]}
    message = refusal(write(tmp_path / "b.toml", other, {**ENTRY, **changes}))
    assert "base_model 2" in message
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hub_ids": ["org/Other"]}, ("name holds 'tiny'",)),
        ({"name": "other"}, ("hub_ids holds 'org/Tiny'", "'tiny'")),
        ({"name": "other", "hub_ids": ["ORG/tiny"]}, ("hub_ids holds 'ORG/tiny'",)),
    ],
)
def test_what_two_entries_share_is_told(
    tmp_path: Path, changes: dict[str, Any], told: tuple[str, ...]
) -> None:
    message = refusal(write(tmp_path / "b.toml", ENTRY, {**ENTRY, **changes}))
    for part in (*told, "unique"):
        assert part in message


def test_one_entry_may_not_name_an_id_twice(tmp_path: Path) -> None:
    twice = {**ENTRY, "hub_ids": ["org/Tiny", "org/Tiny"]}
    assert "must be unique" in refusal(write(tmp_path / "b.toml", twice))


@pytest.mark.parametrize(
    "content", [b"", b"[[base_model", b"[base_model]\nname = 'x'", b"models = []", b"\xff"]
)
def test_what_is_no_list_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.toml"
    path.write_bytes(content)
    assert refusal(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.toml")


def test_a_cached_token_costs_what_the_prompt_does_unless_told() -> None:
    entry = BaseModelEntry(**ENTRY)
    assert entry.price() == Price(20_000, 20_000, 60_000)
    cheaper = BaseModelEntry(**ENTRY, cached_prompt_pico_usd_per_token=2_000)
    assert cheaper.price() == Price(20_000, 2_000, 60_000)
    assert BaseModelEntry(**ENTRY, cached_prompt_pico_usd_per_token=0).price().cached_prompt == 0


def test_lora_costs_exactly_three_halves() -> None:
    assert Price(20_000, 4_002, 60_002).for_lora() == Price(30_000, 6_003, 90_003)


def test_the_list_that_docker_compose_mounts_is_one_and_names_what_its_worker_serves() -> None:
    (entry,) = read_base_list(REPOSITORY / "deploy" / "base_models.toml")
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    assert f"LORAMUX_WORKER_BASE_MODEL: {entry.name}\n" in compose
