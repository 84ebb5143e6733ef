"""What a base model adds to PEFT's rules: its names, its cap of the rank, its own modules."""

from dataclasses import dataclass, field

from services.common.adapters import config
from services.common.adapters.config import AdapterConfig
from services.common.adapters.refusals import CONFIG, unsupported
from services.common.errors import InvalidFieldError
from services.registry.admission import trained_modules
from services.registry.admission.base_names import is_called
from services.registry.admission.trained_modules import TokenRows
from services.registry.bases.base_model import BaseModel


@dataclass(frozen=True)
class FittedConfig:
    """A config that passed, and what its names stand for in the base."""

    config: AdapterConfig
    saved: frozenset[str] = frozenset()
    """Paths of the modules that were trained whole."""
    rows: TokenRows = field(default_factory=TokenRows)


def parse_config(data: bytes, base: BaseModel, *, accept_base_name: bool = False) -> FittedConfig:
    """Check the file's bytes against what the engines apply and what `base` takes. Raises InvalidFieldError.

    `accept_base_name`: whatever base the file names; shapes are checked in any case.
    """
    parsed = config.parse_config(data, base.adaptable)
    if not accept_base_name:
        _check_base(parsed, base)
    _check_cap("r", parsed.r, base)
    for pattern, rank in parsed.rank_pattern.items():
        _check_cap(f"rank_pattern[{pattern!r}]", rank, base)
    saved = trained_modules.saved_modules(parsed, base)
    if parsed.bias == "all":
        _check_saved_biases(saved, base)
    return FittedConfig(parsed, saved, trained_modules.token_rows(parsed, base, saved=saved))


def _check_base(config: AdapterConfig, base: BaseModel) -> None:
    said = config.base_model_name
    if not isinstance(said, str) or not is_called(said, base.hub_ids):
        raise _mismatch(
            "base_model_name_or_path", said, f"one of {', '.join(base.hub_ids)}, which {base.name} goes by"
        )
    # "The specific base model version to use" (PEFT): checkpoints of one repo are different models.
    revisions = ("main", base.commit, base.revision)
    if config.base_revision is not None and config.base_revision not in revisions:
        raise _mismatch("revision", config.base_revision, f"null, or main, or {base.commit}")


def _mismatch(key: str, value: object, bound: str) -> InvalidFieldError:
    return InvalidFieldError(
        f"{CONFIG}: {key}",
        value,
        f"{bound}; where it is the same model nonetheless, deploy with accept_base_name",
        reason="ADAPTER_BASE_MISMATCH",
    )


def _check_cap(key: str, rank: int, base: BaseModel) -> None:
    if rank > base.max_lora_rank:
        raise InvalidFieldError(
            f"{CONFIG}: {key}",
            rank,
            f"at most {base.max_lora_rank}, the cap of base model {base.name}",
            reason="ADAPTER_RANK_ABOVE_CAP",
        )


def _check_saved_biases(saved: frozenset[str], base: BaseModel) -> None:
    """PEFT saves such a bias under three names, with values that need not agree."""
    for path in sorted(saved):
        if base.modules[path].bias is not None:
            raise unsupported("modules_to_save", path, "modules without a bias where bias is 'all'")
