"""The rules of the layout that a machine can check."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

SERVICES = ("registry", "gateway", "worker")

EDGES = (
    "_servicer.py",
    "_messages.py",
    "_client.py",
    "__main__.py",
    "upstream/failed_calls.py",
    "rpc/caller.py",
)
"""What speaks gRPC, by the ends of their paths; all else is domain code."""

ROLES = {"__init__.py", "__main__.py", "settings.py", "tables.py", "env.py", "deployment_servicer.py"}
"""Files that stand for the same thing in each service."""

ROOM = 14
"""A room is about a dozen files."""


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


def domain_modules() -> list[Path]:
    return [
        path
        for path in sources(*(f"services/{name}" for name in SERVICES), "services/common/adapters")
        if not path.as_posix().endswith(EDGES) and "migrations" not in path.parts
    ]


def annotations(tree: ast.Module) -> Iterator[ast.expr]:
    """What fields, parameters and results are said to be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.returns is not None:
                yield node.returns
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            yield from (one.annotation for one in arguments if one.annotation is not None)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other(service: str) -> None:
    others = tuple(f"services.{other}" for other in SERVICES if other != service)
    assert breaches((f"services/{service}",), others) == []


def test_common_imports_no_service() -> None:
    assert breaches(("services/common",), tuple(f"services.{name}" for name in SERVICES)) == []


def test_the_sdk_imports_nothing_of_the_services() -> None:
    assert breaches(("loramux",), ("services",)) == []


def test_torch_and_vllm_stay_in_their_rooms() -> None:
    rooms = {
        "services/worker/engine/local/": ("torch", "transformers", "peft", "safetensors.torch"),
        "services/worker/engine/vllm/": ("vllm",),
    }
    for room, libraries in rooms.items():
        found = breaches(("services", "loramux"), libraries)
        assert [line for line in found if not line.startswith(room)] == []


def test_the_two_forms_of_the_local_engine_do_not_know_each_other() -> None:
    local = "services/worker/engine/local"
    dotted = local.replace("/", ".")
    assert breaches((f"{local}/native",), (f"{dotted}.torch_form",)) == []
    assert breaches((f"{local}/torch_form",), (f"{dotted}.native",)) == []


def test_the_rules_of_adapters_are_pure_code() -> None:
    assert (
        breaches(("services/common/adapters",), ("grpc", "google", "loramux", "torch", "huggingface_hub"))
        == []
    )


def test_grpc_and_protobuf_stay_at_the_edges() -> None:
    """Domain modules know neither; what speaks gRPC is named for it."""
    areas = ("inference", "deployment", "account", "fleet", "worker", "type")
    libraries = (
        "grpc",
        "grpc_status",
        "google.protobuf",
        "google.rpc",
        *(f"loramux.{area}" for area in areas),
    )
    domain = {str(path.relative_to(REPOSITORY)) for path in domain_modules()}
    found = breaches(tuple(f"services/{name}" for name in SERVICES), libraries)
    assert [line for line in found if line.split(" ")[0] in domain] == []


def test_no_value_of_the_domain_is_said_to_be_an_object() -> None:
    """`object` is right for a value that is looked at because nothing is known of it, as JSON of strangers, and for what
    a library hands out as such; a thing of ours that is passed along has a type."""
    looked_at = (
        "services/common/adapters/",
        "services/registry/admission/",
        "services/registry/bases/",
        "services/worker/engine/local/adapters/",
        "services/worker/engine/local/model/wheel_base.py",
    )
    found = [
        f"{path.relative_to(REPOSITORY)}:{annotation.lineno}"
        for path in domain_modules()
        if not path.relative_to(REPOSITORY).as_posix().startswith(looked_at)
        for annotation in annotations(ast.parse(path.read_text()))
        if any(isinstance(node, ast.Name) and node.id == "object" for node in ast.walk(annotation))
        # SQLAlchemy's rows and columns, whose values it types so.
        and not ast.unparse(annotation).startswith(("sa.Row[", "list[sa.Column[", "list[sa.Row["))
    ]
    assert found == []


def test_a_file_name_stands_for_one_subject() -> None:
    places = defaultdict(list)
    for path in sources("services"):
        if path.name not in ROLES and "versions" not in path.parts:
            places[path.name].append(str(path.relative_to(REPOSITORY)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_folder_is_a_room_of_about_a_dozen_files() -> None:
    rooms: dict[Path, int] = defaultdict(int)
    for path in sources("services", "loramux", "bench"):
        rooms[path.parent] += path.name != "__init__.py"
    assert {str(room.relative_to(REPOSITORY)): count for room, count in rooms.items() if count > ROOM} == {}


def test_no_file_has_outgrown_its_subject() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in sources("loramux", "services", "tests", "examples", "bench")
        if (lines := len(path.read_text().splitlines())) > 330
    }
    assert long == {}
