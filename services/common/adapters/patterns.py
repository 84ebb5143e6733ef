"""PEFT's tables from module pattern to number: which number a module takes, and which patterns are safe to match.

Patterns are regular expressions of strangers, and Python's engine can take years over one while the whole process
waits. So the steps that a table can take are bounded before any of it is matched, and each is compiled once.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# Private, but the only parser there is; sre_parse is its deprecated name.
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Generic, TypeVar

from services.common.adapters.refusals import config_invalid

MAX_PATTERN_LENGTH = 1_024
MAX_STEPS = 2_500_000_000
"""For all patterns of one table on all modules of the base: about a nanosecond each, at the worst."""

Number = TypeVar("Number", int, float)

_LEAST_PATHS = 128
_TABLE_FORM = r"(.*\.)?({})$"
_MAX_ORDERS = 64
"""In how many orders the repeats within a look-around and those outside may end, for as many as the bound lets be."""

_PLAIN = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"})
_LOOKS = frozenset({"ASSERT", "ASSERT_NOT"})
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
        self._patterns: list[tuple[Pattern, Number]] = [
            (Pattern(key, pattern, _TABLE_FORM), number) for pattern, number in numbers.items()
        ]
        check_cost(key, [pattern for pattern, _ in self._patterns], paths)
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


class Pattern:
    """One that is short, valid and safe to match; its constructor raises InvalidFieldError for any other."""

    def __init__(self, key: str, text: str, form: str) -> None:
        """`key` is where it stands in the config, `form` the expression that PEFT puts it into, in place of {}."""
        if len(text) > MAX_PATTERN_LENGTH:
            raise config_invalid(key, text, f"patterns of at most {MAX_PATTERN_LENGTH} characters")
        whole = form.replace("{}", text)
        try:
            # By itself first: `a)(b` is a pattern only together with the brackets around it.
            _parser.parse(text)
            self._cost = _cost(_parser.parse(whole))
            self.compiled = re.compile(whole)
        except (re.error, RecursionError, OverflowError) as error:
            raise config_invalid(key, text, f"module paths or regular expressions ({error})") from None
        except _UnboundedError:
            raise config_invalid(
                key, text, "patterns without back references, flags, or repeats of what can itself vary"
            ) from None
        self.text = text

    def steps(self, length: int) -> int:
        """The most that matching it to a path of `length` characters takes."""
        repeats = self._cost.repeats
        ways = int(length**repeats) // math.factorial(repeats)
        return self._cost.ways * self._cost.tests * max(ways, length)


def check_cost(key: str, patterns: Collection[Pattern], paths: Collection[str]) -> None:
    """Raise InvalidFieldError where matching all patterns to all paths could take longer than MAX_STEPS."""
    longest = max(map(len, paths), default=0)
    steps = sum(pattern.steps(longest) for pattern in patterns)
    # Not fewer than so many paths: one match must not take long either, for nothing else runs meanwhile.
    if steps * max(len(paths), _LEAST_PATHS) > MAX_STEPS:
        shown = ", ".join(pattern.text for pattern in patterns)
        raise config_invalid(key, shown, "fewer or simpler patterns: these take too long to match")


@dataclass(frozen=True)
class _Cost:
    """What matching takes at the worst.

    So many ways through alternatives, repeats that can each end anywhere on one way, and tests at each place.
    """

    ways: int = 1
    repeats: int = 0
    tests: int = 1


def _cost(parsed: Any) -> _Cost:  # Any: the parser's own trees
    ways, repeats, tests = 1, 0, 1
    for operation, argument in parsed:
        name = str(operation)
        if name in _PLAIN:
            continue
        if name == "SUBPATTERN" and argument[1] == argument[2] == 0:
            part = _cost(argument[3])
        elif name == "BRANCH":
            part = _cost_of_branches(argument[1])
        elif name in _REPEATS:
            part = _cost_of_repeat(argument[1], _cost(argument[2]))
        elif name in _LOOKS:
            looked = _cost(argument[1])
            # However it ends, it is one way; it begins at each place anew.
            part = _Cost(1, looked.repeats, looked.ways * looked.tests * _MAX_ORDERS)
        else:
            raise _UnboundedError
        ways, repeats, tests = ways * part.ways, repeats + part.repeats, max(tests, part.tests)
    return _Cost(ways, repeats, tests)


def _cost_of_branches(branches: Any) -> _Cost:  # Any: as above
    literals = [
        tuple(argument for _, argument in branch) if _is_literal(branch) else None for branch in branches
    ]
    if None not in literals:
        # Of words only those go on that begin alike: `q_proj|k_proj` is one way, `a|ab` are two.
        ways = max(
            sum(one is not None and word is not None and word[: len(one)] == one for one in literals)
            for word in literals
        )
        return _Cost(ways, 0, len(literals))
    costs = [_cost(branch) for branch in branches]
    return _Cost(
        sum(one.ways for one in costs), max(one.repeats for one in costs), max(one.tests for one in costs)
    )


def _is_literal(parsed: Any) -> bool:  # Any: as above
    return all(str(operation) == "LITERAL" for operation, _ in parsed)


def _cost_of_repeat(most: int, repeated: _Cost) -> _Cost:
    if most == 1:
        return _Cost(repeated.ways + 1, repeated.repeats, repeated.tests)
    if repeated != _Cost():
        raise _UnboundedError
    return _Cost(1, 1, 1)
