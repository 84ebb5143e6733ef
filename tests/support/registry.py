"""A real registry process, and what it is fed with: a base of a few bytes, adapters for it, workers by script."""

import asyncio
import base64
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import grpc.aio

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc, routing_pb2, routing_pb2_grpc
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common.interceptors import CallInterceptor, InternalDoor
from services.common.internal import InternalCalls, Metadata
from services.common.rpc_types import RpcContext
from tests.support.secrets import DISPATCH_SECRET, GATEWAY_SECRET, WORKER_SECRET

ENCRYPTION_KEY = base64.b64encode(bytes(range(32))).decode()
BASE = "tiny"
HUB_ID = "org/Tiny-Base"
OUT, IN = 8, 4
MODULES = tuple(
    f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")
)
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1}

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""(dtype, shape) by tensor name."""


def safetensors(tensors: Shapes) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(position)


def write_base(folder: Path) -> Path:
    """A base model's folder with four modules of [OUT, IN]; what a registry reads, and no more."""
    folder.mkdir(parents=True)
    tensors = {f"{path}.weight": ("F32", (OUT, IN)) for path in MODULES}
    (folder / "model.safetensors").write_bytes(safetensors({**tensors, "model.norm.weight": ("F32", (IN,))}))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"})
    )
    return folder


def adapter_tensors(rank: int = 2, *, modules: tuple[str, ...] = MODULES, dtype: str = "F32") -> Shapes:
    """The tensors of a whole adapter."""
    tensors = {}
    for path in modules:
        tensors[f"base_model.model.{path}.lora_A.weight"] = (dtype, (rank, IN))
        tensors[f"base_model.model.{path}.lora_B.weight"] = (dtype, (OUT, rank))
    return tensors


def adapter_config(**changes: object) -> dict[str, object]:
    """An adapter_config.json as PEFT writes it, less what does not matter here."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": HUB_ID,
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    } | changes


def adapter_files(config: object = None, tensors: Shapes | None = None) -> dict[str, bytes]:
    """A repo's two files."""
    return {
        "adapter_config.json": json.dumps(config or adapter_config()).encode(),
        "adapter_model.safetensors": safetensors(tensors or adapter_tensors()),
    }


def base_list(folder: Path, **changes: object) -> str:
    """The TOML of one base model."""
    entry = {
        "name": BASE,
        "local_path": str(folder),
        "hub_ids": [HUB_ID],
        "max_lora_rank": 4,
        "target_modules": ["q_proj", "v_proj"],
        "prompt_pico_usd_per_token": 20_000,
        "completion_pico_usd_per_token": 60_000,
    } | changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items() if value is not None]
    return "\n".join(["[[base_model]]", *lines, ""])


@dataclass
class Registry:
    """A registry process and the stubs of its services."""

    process: asyncio.subprocess.Process
    address: str
    log: list[str]
    channel: grpc.aio.Channel
    gateways: InternalCalls = field(default_factory=lambda: InternalCalls(GATEWAY_SECRET))
    workers: InternalCalls = field(default_factory=lambda: InternalCalls(WORKER_SECRET))

    def __post_init__(self) -> None:
        self.routing = routing_pb2_grpc.RoutingServiceStub(self.channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)
        self.deployments = deployment_pb2_grpc.DeploymentServiceStub(self.channel)

    def account(self, name: str = "acme") -> Metadata:
        """The metadata of a call on behalf of an account."""
        return self.gateways.metadata(account=name)

    async def create(
        self, deployment_id: str, hub_repo: str, *, account: str = "acme", **fields: Any
    ) -> deployment_pb2.Deployment:
        """Create a deployment; the answer."""
        request = deployment_pb2.CreateDeploymentRequest(
            deployment_id=deployment_id, hub_repo=hub_repo, **fields
        )
        response = await self.deployments.CreateDeployment(request, metadata=self.account(account))
        return response.deployment

    def routes(self, resume_from: routing_pb2.TableVersion | None = None) -> Any:  # Any: grpc's call
        """A gateway's watch of the routes."""
        request = routing_pb2.WatchRoutesRequest(resume_from=resume_from)
        return self.routing.WatchRoutes(request, metadata=self.gateways.metadata(), timeout=60)

    async def hub_token(self, uid: str, digest: str) -> str:
        """What a worker is given for a download."""
        request = fleet_pb2.GetHubTokenRequest(deployment_uid=uid, adapter_digest=digest)
        response = await self.fleet.GetHubToken(request, metadata=self.workers.metadata())
        return response.hub_token

    async def until(
        self,
        name: str,
        met: Callable[[deployment_pb2.Deployment], bool],
        *,
        account: str = "acme",
    ) -> list[deployment_pb2.Deployment]:
        """Watch a deployment until `met`; everything seen."""
        seen = []
        call = self.deployments.WatchDeployment(
            deployment_pb2.WatchDeploymentRequest(name=name), metadata=self.account(account), timeout=60
        )
        async for message in call:
            seen.append(message.deployment)
            if met(message.deployment):
                call.cancel()
                return seen
        raise AssertionError(f"the watch ended at {seen[-1]}")

    async def until_state(self, name: str, state: int, **options: Any) -> deployment_pb2.Deployment:
        """Watch a deployment until it is in a state; how it is then."""
        return (await self.until(name, lambda one: one.state == state, **options))[-1]


@asynccontextmanager
async def running_registry(folder: Path, hub_endpoint: str, **options: str) -> AsyncIterator[Registry]:
    """`python -m services.registry` with its state in `folder`, drained in the end.

    `folder/base` and `folder/bases.toml` are made where they are not there. `options` are variables, less
    their prefix.
    """
    bases = folder / "bases.toml"
    if not bases.exists():
        bases.write_text(base_list(write_base(folder / "base")))
    variables = {
        "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'registry.db'}",
        "BASE_MODELS_FILE": str(bases),
        "HUB_ENDPOINT": hub_endpoint,
        "HUB_PATIENCE_SECONDS": "0",
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "GATEWAY_SECRET": GATEWAY_SECRET,
        "WORKER_SECRET": WORKER_SECRET,
        "DISPATCH_SECRET": DISPATCH_SECRET,
        "DRAIN_SECONDS": "5",
    } | options
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.registry",
        env={**os.environ, **{f"LORAMUX_REGISTRY_{name}": value for name, value in variables.items()}},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    log: list[str] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop, process)
        address = await _serving(process, log)
        reading = asyncio.create_task(_read_log(process, log))
        stack.push_async_callback(asyncio.wait, [reading])
        stack.push_async_callback(_stop, process)
        channel = await stack.enter_async_context(InternalCalls(GATEWAY_SECRET).channel(address))
        yield Registry(process, address, log, channel)


async def _serving(process: asyncio.subprocess.Process, log: list[str]) -> str:
    assert process.stdout is not None
    async for line in process.stdout:
        log.append(line.decode())
        if log[-1].startswith("{") and json.loads(log[-1])["event"] == "serving":
            return str(json.loads(log[-1])["address"])
    raise AssertionError("the registry did not start:\n" + "".join(log))


async def _read_log(process: asyncio.subprocess.Process, log: list[str]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        log.append(line.decode())  # noqa: PERF401  # seen as it comes, not at the end


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


Script = Callable[[fleet_pb2.AdapterRef, RpcContext], Awaitable[None]]


class ScriptedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """A worker that does with an adapter what its script says, and a lease at the registry."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.loaded: list[fleet_pb2.AdapterRef] = []

    async def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, context: RpcContext
    ) -> worker_pb2.LoadAdapterResponse:
        self.loaded.append(request.adapter)
        await self._script(request.adapter, context)
        return worker_pb2.LoadAdapterResponse()


async def willing(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
    """Loads everything."""


@asynccontextmanager
async def running_worker(
    registry: Registry, script: Script = willing, *, worker_id: str = "w1", base_model: str = BASE
) -> AsyncIterator[ScriptedWorker]:
    """A worker that serves `script` and has a lease for the length of the context."""
    servicer = ScriptedWorker(script)  # type: ignore[abstract]  # the registry calls nothing else
    name = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
    door = InternalDoor(InternalCalls(DISPATCH_SECRET))
    server = grpc.aio.server(interceptors=[CallInterceptor({name: door})])
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with leased(registry, worker_id=worker_id, address=f"127.0.0.1:{port}", base_model=base_model):
        yield servicer
    await server.stop(None)


@asynccontextmanager
async def leased(
    registry: Registry, *, worker_id: str, address: str, base_model: str = BASE
) -> AsyncIterator[Any]:  # Any: grpc's call, which its stubs type by the method
    """A worker's Register stream, registered; ends with the context."""
    base = await registry.fleet.GetBaseModel(
        fleet_pb2.GetBaseModelRequest(name=base_model), metadata=registry.workers.metadata()
    )
    call = registry.fleet.Register(metadata=registry.workers.metadata())
    await call.write(
        fleet_pb2.RegisterRequest(
            registration=fleet_pb2.WorkerRegistration(
                worker_id=worker_id,
                address=address,
                base_model=base_model,
                base_commit=base.base_model.commit,
                max_sequences=8,
                adapter_slots=4,
            )
        )
    )
    await call.read()
    try:
        yield call
    finally:
        call.cancel()
