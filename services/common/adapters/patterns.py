"""PEFT's tables from module pattern to number: which number a module takes, and which patterns are safe to match.

Patterns are regular expressions of strangers, and Python's engine can take years over one while the whole process
waits. So the steps that a table can take are bounded before any of it is matched, and each is compiled once.
"""

import math
import re
from collections.abc import Collection, Mapping

# Private, but the only parser there is; sre_parse is its deprecated name.
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Generic, TypeVar

from services.common.adapters.refusals import config_invalid

MAX_PATTERN_LENGTH = 256
MAX_STEPS = 2_500_000_000
"""For all patterns of one table on all modules of the base: about a nanosecond each, at the worst."""

Number = TypeVar("Number", int, float)

_PLAIN = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"})
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})


class _UnboundedError(Exception):
    """The pattern has a part whose steps are not bounded here."""


class PatternTable(Generic[Number]):
    """What one table of a config gives each module of a base. Immutable, but for what it remembers."""

    def __init__(self, key: str, numbers: Mapping[str, Number], paths: Collection[str]) -> None:
        """`key` is the table's name in the config, `paths` are those of the base's modules.

        Raises InvalidFieldError unless there are at most as many patterns as modules, every one is short and valid,
        and all match in reasonable time.
        """
        if len(numbers) > len(paths):
            raise config_invalid(
                key, f"{len(numbers)} patterns", f"at most {len(paths)}, one for each module of the base"
            )
        longest = max(map(len, paths), default=0)
        self._patterns: list[tuple[_Pattern, Number]] = [
            (_Pattern(key, pattern), number) for pattern, number in numbers.items()
        ]
        if sum(pattern.steps(longest) for pattern, _ in self._patterns) * len(paths) > MAX_STEPS:
            raise config_invalid(
                key, ", ".join(numbers), "fewer or simpler patterns: these take too long to match"
            )
        self._known: dict[str, Number | None] = {}

    def items(self) -> Collection[tuple[str, Number]]:
        """Patterns and their numbers, in the order of the config."""
        return [(pattern.text, number) for pattern, number in self._patterns]

    def number_of(self, path: str) -> Number | None:
        """That of the first pattern that the path of a base's module ends with, as PEFT's get_pattern_key has it."""
        if path not in self._known:
            self._known[path] = next(
                (number for pattern, number in self._patterns if pattern.compiled.match(path)), None
            )
        return self._known[path]


class _Pattern:
    """One that is short, valid and safe to match; its constructor raises InvalidFieldError for any other."""

    def __init__(self, key: str, text: str) -> None:
        if len(text) > MAX_PATTERN_LENGTH:
            raise config_invalid(key, text, f"patterns of at most {MAX_PATTERN_LENGTH} characters")
        try:
            # By itself first: `a)(b` is a pattern only together with the brackets around it.
            self._ways, self._repeats = _cost(_parser.parse(text))
            self.compiled = re.compile(rf"(.*\.)?({text})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise config_invalid(key, text, f"module paths or regular expressions ({error})") from None
        except _UnboundedError:
            raise config_invalid(
                key,
                text,
                "patterns without look-around, back references, flags, or repeats of what can itself vary",
            ) from None
        self.text = text

    def steps(self, length: int) -> int:
        """The most that matching it to a path of `length` characters takes."""
        # One more repeat: the prefix that PEFT puts before each pattern.
        repeats = self._repeats + 1
        return self._ways * (int(length**repeats) // math.factorial(repeats))


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
