"""The page of reasons is a public contract: what the code raises stands there."""

import ast
import re

from tests.support.paths import REPOSITORY

_REASON = re.compile(r"[A-Z]+(_[A-Z]+)+")


def raised() -> set[str]:
    """Every reason that is passed to an error's constructor as a literal."""
    found: set[str] = set()
    for path in (REPOSITORY / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("Error"):
                continue
            reasons = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            for argument in (*node.args[:1], *reasons):
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found |= {argument.value} if _REASON.fullmatch(argument.value) else set()
    return found


def test_every_reason_that_is_raised_is_on_the_page() -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text()
    assert len(raised()) > 20
    assert {reason for reason in raised() if f"`{reason}`" not in page} == set()
