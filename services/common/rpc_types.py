"""grpc's own types, spelled once: its stubs make generic what at runtime is not."""

from typing import TYPE_CHECKING, Any

import grpc.aio

if TYPE_CHECKING:
    # A servicer method's request and response types are in its signature already.
    RpcContext = grpc.aio.ServicerContext[Any, Any]
else:
    RpcContext = grpc.aio.ServicerContext
