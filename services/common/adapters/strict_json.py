"""JSON from strangers: no duplicate keys, no NaN, no number that overflows, no depth that breaks the parser."""

import json
import math
from typing import Any, NoReturn


class StrictJsonError(ValueError):
    """The bytes are not JSON as this service takes it; the message says why."""


def parse_object(data: bytes) -> dict[str, Any]:  # Any: JSON values, checked by the callers
    """The object that `data` holds. Raises StrictJsonError."""
    try:
        value = json.loads(
            data.decode("utf-8-sig"),  # editors of some systems put a byte order mark first
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError("it is nested too deeply") from None
    except ValueError as error:  # bad UTF-8, bad JSON, an integer of thousands of digits
        raise StrictJsonError(str(error)) from None
    if not isinstance(value, dict):
        raise StrictJsonError(f"it is a {type(value).__name__}, not an object")
    return value


def is_int(value: object) -> bool:
    """Whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise StrictJsonError(f"key {key[:100]!r} appears twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise StrictJsonError(f"the number {text[:40]} is too large")
    return number
