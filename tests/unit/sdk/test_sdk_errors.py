"""The SDK's exceptions: what each status becomes, and that they travel."""

import copy
import pickle

import grpc
import pytest

import loramux
from loramux import errors
from loramux.deployment.v1 import deployment_pb2
from services.common import errors as service_errors
from tests.support.scripted_gateway import ScriptedGateway

DETAILS = errors.ErrorDetails(
    grpc.StatusCode.UNAVAILABLE, "away", "DRAINING", {"a": "b"}, retry_after=1.5, request_id="r-1"
)


@pytest.mark.parametrize("travel", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_travels_between_processes_as_it_is(travel: "type[errors.LoramuxError]") -> None:
    failed = deployment_pb2.Deployment(name="acme/x", failure={"reason": "R", "message": "m"})
    for error in (errors.UnavailableError(DETAILS), loramux.DeploymentFailedError(failed)):
        again = travel(error)  # type: ignore[arg-type]  # what copies
        assert type(again) is type(error)
        assert (str(again), again.reason, again.metadata) == (str(error), error.reason, error.metadata)
        assert (again.retry_after, again.request_id) == (error.retry_after, error.request_id)


def refused(gateway: ScriptedGateway, error: service_errors.ServiceError) -> errors.LoramuxError:
    gateway.on("GetAccount", [error])
    with (
        loramux.SyncClient(gateway.target, "lmx_test") as client,
        pytest.raises(errors.LoramuxError) as caught,
    ):
        client.get_account()
    return caught.value


def test_an_error_names_its_request_and_what_is_not_done_yet_its_field() -> None:
    with ScriptedGateway() as gateway:
        error = refused(gateway, service_errors.NotImplementedYetError("QueryUsage", "sums of usage"))
    assert isinstance(error, errors.NotImplementedYetError)
    assert error.metadata == {"field": "QueryUsage"}


def test_a_message_above_the_transports_bound_is_no_limit_that_was_reached() -> None:
    details = errors.ErrorDetails(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")

    class Failed(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return details.code

        def details(self) -> str:
            return details.message

        def trailing_metadata(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]  # pairs at runtime
            return (("x-loramux-request-id", "r-2"),)

    error = errors.from_rpc_error(Failed())
    assert type(error) is errors.MessageTooLargeError
    assert error.request_id == "r-2"
