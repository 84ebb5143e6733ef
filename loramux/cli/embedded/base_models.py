"""Base models as the registry's TOML file lists them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loramux import profile

SMOLLM2 = "smollm2-135m-instruct"
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class BaseModel:
    """One `[[base_model]]`: exactly one of `local_path` and `hub_repo`."""

    name: str
    """What requests call it."""
    hub_ids: tuple[str, ...]
    """The names by which adapters may call it."""
    local_path: Path | None = None
    hub_repo: str | None = None
    revision: str | None = None
    max_lora_rank: int = 64
    target_modules: tuple[str, ...] = ()
    """Which modules adapters may adapt; none said is all that the base has."""
    prompt_pico_usd_per_token: int = 20_000
    """Even, so that LoRA's 3/2 of it is whole."""
    completion_pico_usd_per_token: int = 60_000
    """Even, likewise."""


def smollm2_folder() -> Path:
    """Where the base model that comes from a wheel is unpacked to."""
    return profile.home() / "bases" / SMOLLM2


def smollm2() -> BaseModel:
    """The base model that needs no Hub."""
    return BaseModel(name=SMOLLM2, hub_ids=(SMOLLM2_HUB_ID,), local_path=smollm2_folder())


def chosen(base: str | None) -> BaseModel:
    """What `--base` means: nothing or SmolLM2's name, or a Hub id with an optional `@revision`.

    Raises ValueError.
    """
    if base is None or base == SMOLLM2:
        return smollm2()
    repo, _, revision = base.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"base is {base!r}; it must be {SMOLLM2} or a Hub id, owner/name")
    name = re.sub(r"[^a-z0-9.-]+", "-", repo.split("/")[1].lower()).strip("-.")[:63]
    return BaseModel(name=name, hub_ids=(repo,), hub_repo=repo, revision=revision or None)


def to_toml(bases: Sequence[BaseModel]) -> str:
    """The file's content."""
    return "\n".join(_entry(base) for base in bases)


def _entry(base: BaseModel) -> str:
    fields: dict[str, object] = {
        "name": base.name,
        "local_path": None if base.local_path is None else str(base.local_path.absolute()),
        "hub_repo": base.hub_repo,
        "revision": base.revision,
        "hub_ids": list(base.hub_ids),
        "max_lora_rank": base.max_lora_rank,
        "target_modules": list(base.target_modules) or None,
        "prompt_pico_usd_per_token": base.prompt_pico_usd_per_token,
        "completion_pico_usd_per_token": base.completion_pico_usd_per_token,
    }
    # JSON's strings, numbers and lists are TOML's too.
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items() if value is not None]
    return "\n".join(["[[base_model]]", *lines, ""])
