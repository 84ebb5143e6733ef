"""The one call that the registry makes: let a worker load an adapter."""

import grpc
import grpc.aio

from loramux.errors import LoramuxError, from_rpc_error
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import errors
from services.common.internal import InternalCalls
from services.registry.deployments.rollout import (
    LoadBrokeError,
    LoadOrder,
    LoadRefusedError,
    WorkerBusyError,
    WorkerLostError,
)
from services.registry.rpc.adapter_ref_messages import adapter_ref

LOAD_TIMEOUT = 900.0
"""Seconds for the download of a large adapter, its check and its probe."""

_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
# The worker's own trouble, not the adapter's.
_LOST = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
)


class WorkerClient:
    """Calls workers by address, each over a channel of its own: loads are rare and long."""

    def __init__(self, calls: InternalCalls) -> None:
        self._calls = calls

    async def load(self, address: str, order: LoadOrder) -> None:
        """Return once the adapter is loaded and has run. Raises the four errors of `rollout`."""
        request = worker_pb2.LoadAdapterRequest(adapter=adapter_ref(order.version, order.deployment_uid))
        metadata = self._calls.metadata(request_id=order.request_id, account=order.account)
        async with self._calls.channel(address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            try:
                await stub.LoadAdapter(request, metadata=metadata, timeout=LOAD_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                raise _meaning(from_rpc_error(error)) from None


def _meaning(error: LoramuxError) -> Exception:
    # It broke over this adapter, or has too little memory: another worker may not, so it is asked, once.
    if error.reason in ("ADAPTER_LOAD_FAILED", "ADAPTER_ABOVE_WORKER_MEMORY") or (
        error.reason and error.code is grpc.StatusCode.INTERNAL
    ):
        return LoadBrokeError(errors.ServiceError(error.reason, error.message, error.metadata))
    # A status without a reason was made by the transport, not by the worker.
    if not error.reason or error.code in _LOST:
        return WorkerLostError(str(error))
    if error.code in _RETRIED:
        return WorkerBusyError(error.message)
    return LoadRefusedError(errors.ServiceError(error.reason, error.message, error.metadata))
