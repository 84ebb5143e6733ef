"""Every error has one status, on each edge, and carries what a client needs to act on it."""

import json

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.common import errors, logs, rpc_status

EXAMPLES: list[tuple[errors.ServiceError, str, int, set[str]]] = [
    (errors.InvalidFieldError("temperature", -1.0, "0 .. 2"), "INVALID_ARGUMENT", 400, {"BadRequest"}),
    (errors.AboveLimitError("tokens per minute", 900, 500), "INVALID_ARGUMENT", 400, {"QuotaFailure"}),
    (errors.UnauthenticatedError("KEY_UNKNOWN", "no such key"), "UNAUTHENTICATED", 401, set()),
    (errors.NoCreditError("acme", 10, 3), "FAILED_PRECONDITION", 402, {"PreconditionFailure"}),
    (errors.PermissionDeniedError("operators only"), "PERMISSION_DENIED", 403, set()),
    (errors.NotFoundError("model", "acme/x"), "NOT_FOUND", 404, {"ResourceInfo"}),
    (errors.AlreadyExistsError("account", "acme"), "ALREADY_EXISTS", 409, {"ResourceInfo"}),
    (
        errors.PreconditionError("HUB_REPO_GATED", "acme/x", "gated"),
        "FAILED_PRECONDITION",
        409,
        {"PreconditionFailure"},
    ),
    (errors.StaleEtagError("acme/x"), "ABORTED", 409, set()),
    (
        errors.LimitReachedError("POOL_FULL", "pool", "full", maximum=4, retry_after=1.0),
        "RESOURCE_EXHAUSTED",
        429,
        {"QuotaFailure", "RetryInfo"},
    ),
    (errors.InternalError("abc"), "INTERNAL", 500, set()),
    (errors.UnavailableError("DRAINING", "draining", retry_after=0.25), "UNAVAILABLE", 503, {"RetryInfo"}),
]


def details(status: status_pb2.Status) -> dict[str, object]:
    found: dict[str, object] = {}
    for packed in status.details:
        name = packed.type_url.rsplit(".", 1)[-1]
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        found[name] = message
    return found


@pytest.mark.parametrize(("error", "code", "http", "extra"), EXAMPLES)
def test_an_error_becomes_its_row_of_the_table(
    error: errors.ServiceError, code: str, http: int, extra: set[str]
) -> None:
    status = rpc_status.to_status(error)
    assert grpc.StatusCode[code].value[0] == status.code
    assert errors.status_of(error).http == http
    assert set(details(status)) == {"ErrorInfo", *extra}


def test_every_class_of_error_has_an_example_here() -> None:
    assert {type(error) for error, *_ in EXAMPLES} == set(errors.STATUS)


def test_a_refused_field_names_field_value_and_bound() -> None:
    status = rpc_status.to_status(errors.InvalidFieldError("sampling.top_p", 1.5, "in (0, 1]"))
    assert status.message == "sampling.top_p is 1.5; it must be in (0, 1]"
    info = details(status)["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"field": "sampling.top_p", "value": "1.5", "bound": "in (0, 1]"}
    assert info.domain == "loramux"


def test_a_retry_is_named_in_whole_milliseconds_never_too_early() -> None:
    retry = details(rpc_status.to_status(errors.UnavailableError("X", "x", retry_after=0.2501)))["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 251


def test_a_huge_value_is_shortened_in_the_message() -> None:
    error = errors.InvalidFieldError("text", "x" * 10_000, "shorter")
    assert len(error.message) < 200
    assert "10002 characters" in error.message


def test_a_subclass_takes_the_row_of_the_class_above_it() -> None:
    class Narrower(errors.UnavailableError):
        pass

    assert errors.status_of(Narrower("X", "x", retry_after=1)).grpc == "UNAVAILABLE"


@pytest.mark.parametrize(
    "event",
    [
        {"event": "x", "authorization": "whatever"},
        {"event": "refused lmx_abcdefghijklmnop"},
        {"event": "x", "message": "401 for token hf_abcdefghijkl"},
        {"event": "x", "exception": 'headers={"authorization": "Bearer s3cr3t-value"}'},
        {"event": "x", "hub_token": "anything"},
    ],
)
def test_secrets_do_not_reach_the_log(event: dict[str, str]) -> None:
    line = json.dumps(dict(logs.redact(None, "info", dict(event))))
    for secret in ("whatever", "abcdefgh", "s3cr3t", "anything"):
        assert secret not in line
