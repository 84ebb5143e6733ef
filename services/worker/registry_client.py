"""What a worker asks the registry for."""

import asyncio

import grpc
import grpc.aio

from loramux.errors import from_rpc_error
from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from services.common import errors, interceptors, internal, logs
from services.worker.base.base_files import BaseSource, StartRefusedError

_ASK_SECONDS = 10.0
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
# What the registry has looked at and said no to.
_FINAL = frozenset({
    grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT,
})  # fmt: skip
_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_log = logs.get_logger(__name__)


class RegistryClient:
    """FleetService's unary calls, over a channel that the caller closes."""

    def __init__(self, stub: "fleet_pb2_grpc.FleetServiceAsyncStub", calls: internal.InternalCalls) -> None:
        self._stub = stub
        self._calls = calls

    async def base_model(self, name: str) -> BaseSource:
        """What to load. Asks until the registry answers; raises StartRefusedError when it says no."""
        wait = _FIRST_WAIT
        while True:
            try:
                answer = await self._stub.GetBaseModel(
                    fleet_pb2.GetBaseModelRequest(name=name),
                    metadata=self._calls.metadata(),
                    timeout=_ASK_SECONDS,
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NO_ANSWER:
                    raise StartRefusedError(
                        f"the registry refuses base model {name!r}: {error.details()}"
                    ) from None
                _log.info(
                    "waiting_for_registry", code=error.code().name, detail=error.details(), seconds=wait
                )
            else:
                source = answer.source
                return BaseSource(answer.base_model.commit, source.local_path, source.hub_repo)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def hub_token(self, deployment_uid: str, adapter_digest: str) -> str:
        """The Hub token of one version of a deployment; empty where none is stored.

        Raises PreconditionError where the registry refuses, and UnavailableError REGISTRY_UNREACHABLE.
        """
        try:
            response = await self._stub.GetHubToken(
                fleet_pb2.GetHubTokenRequest(deployment_uid=deployment_uid, adapter_digest=adapter_digest),
                metadata=self._calls.metadata(request_id=interceptors.request_id()),
                timeout=_ASK_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            _log.warning("hub_token_unavailable", code=error.code().name, deployment_uid=deployment_uid)
            raise _meaning(error, deployment_uid) from None
        return response.hub_token


def _meaning(error: grpc.aio.AioRpcError, deployment_uid: str) -> errors.ServiceError:
    metadata = {"deployment_uid": deployment_uid}
    refusal = from_rpc_error(error)
    if refusal.reason and error.code() in _FINAL:
        return errors.PreconditionError(refusal.reason, deployment_uid, refusal.message, metadata)
    return errors.UnavailableError(
        "REGISTRY_UNREACHABLE",
        "the adapter's Hub token cannot be had now; try again",
        retry_after=2.0,
        metadata=metadata,
    )
