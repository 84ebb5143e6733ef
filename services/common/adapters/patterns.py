"""PEFT's module patterns: which one a module takes, and which ones are safe to match.

Patterns are regular expressions of strangers, and Python's engine can take years over one while the whole
process waits. So the steps that a pattern can take are bounded before it is ever matched. The worker matches
`alpha_pattern` too, and only sees patterns that passed here.
"""

import math
import re
from collections.abc import Iterable

# Private, but the only parser there is; sre_parse is its deprecated name.
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from services.common.errors import InvalidFieldError

MAX_PATTERN_LENGTH = 256
MAX_STEPS = 1_000_000
"""For all patterns of one table together, on one module."""

_PATH_LENGTH = 128
_PLAIN = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"})
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})


class _UnboundedError(Exception):
    """The pattern has a part whose steps are not bounded here."""


def check_patterns(field: str, patterns: Iterable[str]) -> None:
    """Raise InvalidFieldError unless every pattern is short and valid, and all match in reasonable time."""
    steps = 0
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise _invalid(field, pattern, f"patterns of at most {MAX_PATTERN_LENGTH} characters")
        try:
            ways, repeats = _cost(_parser.parse(pattern))
            _compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise _invalid(field, pattern, f"module paths or regular expressions ({error})") from None
        except _UnboundedError:
            raise _invalid(
                field,
                pattern,
                "patterns without look-around, back references, flags, or repeats of what can itself vary",
            ) from None
        # One more repeat: the prefix that PEFT puts before each pattern.
        steps += ways * _PATH_LENGTH ** (repeats + 1) // math.factorial(repeats + 1)
        if steps > MAX_STEPS:
            raise _invalid(field, pattern, "fewer or simpler patterns: these take too long to match")


def first_match(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern that a module path ends with, as PEFT 0.21's get_pattern_key has it."""
    return next((pattern for pattern in patterns if _compile(pattern).match(path)), None)


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _cost(parsed: Any) -> tuple[int, int]:  # Any: the parser's own trees
    """(ways to choose between alternatives, repeats on one way) of a parsed pattern."""
    ways, repeats = 1, 0
    for operation, argument in parsed:
        name = str(operation)
        if name in _PLAIN:
            part = (1, 0)
        elif name == "SUBPATTERN" and argument[1] == argument[2] == 0:
            part = _cost(argument[3])
        elif name == "BRANCH":
            branches = [_cost(branch) for branch in argument[1]]
            part = (sum(one[0] for one in branches), max(one[1] for one in branches))
        elif name in _REPEATS:
            part = _cost_of_repeat(argument[1], _cost(argument[2]))
        else:
            raise _UnboundedError
        ways, repeats = ways * part[0], repeats + part[1]
    return ways, repeats


def _cost_of_repeat(most: int, repeated: tuple[int, int]) -> tuple[int, int]:
    if most == 1:
        return repeated[0] + 1, repeated[1]
    if repeated != (1, 0):
        raise _UnboundedError
    return 1, 1


def _invalid(field: str, value: str, bound: str) -> InvalidFieldError:
    return InvalidFieldError(field, value, bound, reason="ADAPTER_CONFIG_INVALID")
