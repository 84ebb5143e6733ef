"""Every error has one status, on each edge, and carries what a client needs to act on it."""

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

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
    (errors.NotImplementedYetError("constraint", "structured output"), "UNIMPLEMENTED", 501, set()),
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
    assert "10000 characters" in error.message


HOSTILE = ("x" * 2_500_000, "\N{GRINNING FACE}" * 100_000, "\ud800" * 9_000, "\x1b]0;title\x07" * 5_000)


@pytest.mark.parametrize("name", HOSTILE, ids=["long", "wide", "surrogates", "escapes"])
@pytest.mark.parametrize(
    "make",
    [
        lambda name: errors.InvalidFieldError(name, name, name, reason=name),
        lambda name: errors.NotFoundError("model", name),
        lambda name: errors.AlreadyExistsError("account", name),
        lambda name: errors.PreconditionError(name, name, name, {name: name, f"{name}2": name}),
        lambda name: errors.UnavailableError(name, name, retry_after=1, metadata={"x": name}),
        lambda name: errors.LimitReachedError("POOL_FULL", name, name, maximum=1, retry_after=1),
        errors.StaleEtagError,
        errors.PermissionDeniedError,
        lambda name: errors.NoCreditError(name, 10**400, 10**400),
        lambda name: errors.NotImplementedYetError(name, name),
        lambda name: errors.AboveLimitError(name, 1, 2),
        errors.InternalError,
    ],
)
def test_whatever_name_goes_into_an_error_it_fits_into_a_header(
    make: Callable[[str], errors.ServiceError], name: str
) -> None:
    error = make(name)
    assert len(error.message.encode()) <= errors.MAX_MESSAGE
    assert len(str(error)) <= errors.MAX_MESSAGE
    assert "\x1b" not in error.message
    status = rpc_status.to_status(error)
    # The message travels percent-encoded, the details in base64; gRPC's soft limit for all of it is 8 KiB.
    assert len(quote(status.message)) + len(base64.b64encode(status.SerializeToString())) < 7_500


def test_metadata_that_does_not_fit_is_left_out_from_its_end() -> None:
    error = errors.PreconditionError("X_Y", "s", "m", {str(place): "v" * 200 for place in range(100)})
    assert list(error.metadata)[:3] == ["0", "1", "2"]
    assert sum(len(key) + len(value) for key, value in error.metadata.items()) <= errors.MAX_METADATA


def test_a_number_of_many_digits_is_told_by_its_size() -> None:
    assert "bits" in errors.InvalidFieldError("lora_alpha", 10**5_000, "smaller").message


@pytest.mark.parametrize(("error", "code", "http", "extra"), EXAMPLES)
def test_an_error_comes_back_from_its_status_with_code_reason_and_words(
    error: errors.ServiceError, code: str, http: int, extra: set[str]
) -> None:
    status = rpc_status.to_status(error)
    back = rpc_status.to_error(grpc.StatusCode[code], status)
    assert back is not None
    assert errors.status_of(back).grpc == code
    assert (back.reason, back.message, back.metadata) == (error.reason, error.message, error.metadata)
    again = rpc_status.to_status(back)
    assert {"RetryInfo", "ResourceInfo"} & set(details(again)) == {"RetryInfo", "ResourceInfo"} & extra
    for name in {"RetryInfo", "ResourceInfo"} & extra:
        assert details(again)[name] == details(status)[name]


def test_a_status_that_is_not_ours_is_no_error_of_ours() -> None:
    full = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="message too large")
    assert rpc_status.to_error(grpc.StatusCode.RESOURCE_EXHAUSTED, full) is None


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
