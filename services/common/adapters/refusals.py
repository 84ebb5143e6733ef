"""The refusals of an adapter's two files: each names the file, the field, the value and the bound."""

from services.common.errors import InvalidFieldError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_MAX_KEY_LENGTH = 64


def config_invalid(key: str, value: object, bound: str) -> InvalidFieldError:
    """A setting's value is not one that the setting can have."""
    return InvalidFieldError(_config_field(key), value, bound, reason="ADAPTER_CONFIG_INVALID")


def unsupported(key: str, value: object, bound: str) -> InvalidFieldError:
    """A setting's value is PEFT's, but the engine does not apply it."""
    return InvalidFieldError(_config_field(key), value, bound, reason="ADAPTER_UNSUPPORTED")


def tensors_invalid(field: str, value: object, bound: str) -> InvalidFieldError:
    """The weights' header does not fit the config and the base."""
    return InvalidFieldError(
        WEIGHTS if not field else f"{WEIGHTS}: {field}", value, bound, reason="ADAPTER_TENSORS_INVALID"
    )


def _config_field(key: str) -> str:
    if not key:
        return CONFIG
    # Keys come from strangers too.
    shown = key if len(key) <= _MAX_KEY_LENGTH and key.isprintable() else repr(key)[:_MAX_KEY_LENGTH]
    return f"{CONFIG}: {shown}"
