"""The operator's list of base models: a TOML file, read strictly."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # lazy, but public
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.registry.bases.base_model import Price

_MAX_RANK = 512
_MAX_PRICE = 10**12


class BaseListError(Exception):
    """The list is not usable; the message names the file, the entry, the field, the value and the bound."""


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("it must be even, so that LoRA's 3/2 of it is whole")
    return value


def _repo_id(value: str) -> str:
    try:
        validate_repo_id(value)
    except HFValidationError:
        raise ValueError("it must be a Hub id, such as org/name") from None
    return value


_RepoId = Annotated[str, AfterValidator(_repo_id)]
_Price = Annotated[int, Field(ge=0, le=_MAX_PRICE), AfterValidator(_even)]


class BaseModelEntry(BaseModel):
    """One `[[base_model]]`; `local_path` and `hub_repo` exclude each other."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    local_path: Annotated[str, Field(pattern=r"^/")] | None = None
    hub_repo: _RepoId | None = None
    revision: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    hub_ids: Annotated[list[_RepoId], Field(min_length=1)]
    max_lora_rank: Annotated[int, Field(ge=1, le=_MAX_RANK)]
    target_modules: Annotated[list[Annotated[str, Field(pattern=r"^\w+$")]], Field(min_length=1)] | None = (
        None
    )
    """None is every linear module, the input embedding and the output layer."""
    prompt_pico_usd_per_token: _Price
    cached_prompt_pico_usd_per_token: _Price | None = None
    """None is the prompt's."""
    completion_pico_usd_per_token: _Price

    @model_validator(mode="after")
    def _check_source(self) -> "BaseModelEntry":
        if (self.local_path is None) == (self.hub_repo is None):
            raise ValueError("exactly one of local_path and hub_repo must be set")
        if self.revision is not None and self.hub_repo is None:
            raise ValueError("revision goes with hub_repo only")
        return self

    @model_validator(mode="after")
    def _check_cached_price(self) -> "BaseModelEntry":
        cached, prompt = self.cached_prompt_pico_usd_per_token, self.prompt_pico_usd_per_token
        if cached is not None and cached > prompt:
            raise ValueError(
                f"cached_prompt_pico_usd_per_token is {cached}; it must be at most the prompt's, {prompt}"
            )
        return self

    def price(self) -> Price:
        """What one token costs on this base."""
        cached, prompt = self.cached_prompt_pico_usd_per_token, self.prompt_pico_usd_per_token
        return Price(prompt, prompt if cached is None else cached, self.completion_pico_usd_per_token)


class _BaseList(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    base_model: Annotated[list[BaseModelEntry], Field(min_length=1)]


def read_base_list(path: Path) -> tuple[BaseModelEntry, ...]:
    """The entries of the file, in its order. Raises BaseListError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseListError(f"cannot read the base models' file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BaseListError(f"{path} is not TOML: {error}") from None
    try:
        entries = tuple(_BaseList.model_validate(document).base_model)
    except ValidationError as error:
        problems = [_describe(document, problem) for problem in error.errors(include_url=False)]
        raise BaseListError("\n".join(f"{path}: {problem}" for problem in problems)) from None
    _check_unique(path, "name", [(entry, entry.name) for entry in entries])
    _check_unique(path, "hub_ids", [(entry, one) for entry in entries for one in entry.hub_ids])
    return entries


def _check_unique(path: Path, field: str, values: list[tuple[BaseModelEntry, str]]) -> None:
    first: dict[str, BaseModelEntry] = {}
    for entry, value in values:
        other = first.setdefault(value.casefold(), entry)
        if other is not entry or sum(value == mine for owner, mine in values if owner is entry) > 1:
            raise BaseListError(
                f"{path}: base_model {entry.name!r}: {field} holds {value!r}; it must be unique, "
                f"and base_model {other.name!r} has it too"
            )


def _describe(
    document: dict[str, Any], problem: Any
) -> str:  # Any: TOML values; pydantic's error dictionaries
    location = list(problem["loc"])
    entry = ".".join(str(part) for part in location)
    if len(location) > 1 and location[0] == "base_model":
        name = document["base_model"][location[1]]
        name = name.get("name") if isinstance(name, dict) else None
        field = ".".join(str(part) for part in location[2:])
        entry = f"base_model {location[1] + 1} ({name!r})" + (f": {field}" if field else "")
    bound = re.sub("^(Value error, |Input )", "", problem["msg"])
    match problem["type"]:
        case "missing":
            return f"{entry} is missing"
        case "extra_forbidden":
            return f"{entry} is not a field of the base models' file"
        case _ if isinstance(problem["input"], (dict, list)):
            return f"{entry}: {bound}"
        case _:
            return f"{entry} is {problem['input']!r}; it {bound.removeprefix('it ')}"
