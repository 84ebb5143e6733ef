"""The rules of the layout that a machine can check."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

SERVICES = ("registry", "gateway", "worker")


def sources(*roots: str) -> list[Path]:
    return sorted(
        path
        for root in roots
        for path in (REPOSITORY / root).rglob("*.py")
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
    )


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(roots: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in sources(*roots)
        for name in imported(path)
        if any(name == one or name.startswith(f"{one}.") for one in forbidden)
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other(service: str) -> None:
    others = tuple(f"services.{other}" for other in SERVICES if other != service)
    assert breaches((f"services/{service}",), others) == []


def test_common_imports_no_service() -> None:
    assert breaches(("services/common",), tuple(f"services.{name}" for name in SERVICES)) == []


def test_the_sdk_imports_nothing_of_the_services() -> None:
    assert breaches(("loramux",), ("services",)) == []


def test_torch_stays_under_the_engine() -> None:
    found = breaches(("services", "loramux"), ("torch", "transformers", "peft"))
    assert [line for line in found if not line.startswith("services/worker/engine/")] == []


def test_grpc_and_protobuf_stay_at_the_edges() -> None:
    """Domain modules know neither; what speaks gRPC is named for it."""
    edges = ("_servicer.py", "_messages.py", "_client.py", "__main__.py", "upstream/failed_calls.py")
    found = breaches(
        tuple(f"services/{name}" for name in SERVICES),
        ("grpc", "google.protobuf", "google.rpc", *(f"loramux.{area}" for area in
         ("inference", "deployment", "account", "fleet", "worker"))),
    )  # fmt: skip
    assert [line for line in found if not line.split(" ")[0].endswith(edges)] == []


def test_no_file_has_outgrown_its_subject() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in sources("loramux", "services", "tests", "examples")
        if (lines := len(path.read_text().splitlines())) > 330
    }
    assert long == {}
