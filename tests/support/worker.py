"""Real worker processes, a real registry and a hub on this machine, with a miniature base and adapters for it."""

import asyncio
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from loramux import errors as sdk
from loramux.fleet.v1 import fleet_pb2
from loramux.localhub import LocalHub
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common.internal import InternalCalls
from tests.support.models import LLAMA_MODULES
from tests.support.registry import ENCRYPTION_KEY, base_list
from tests.support.secrets import DISPATCH_SECRET, GATEWAY_SECRET, WORKER_SECRET

BASE = "tiny"
CALLS = InternalCalls(DISPATCH_SECRET)


class ServiceProcess:
    """`python -m services.<name>`, its log lines, and its end."""

    def __init__(self, name: str, variables: dict[str, str]) -> None:
        prefix = f"LORAMUX_{name.upper()}_"
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                **{prefix + key: value for key, value in variables.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log line of this event; blocks until it comes."""
        with self._came:
            self._came.wait_for(lambda: self._ended or self._first(event) is not None, 120)
            found = self._first(event)
        assert found is not None, f"no {event}:\n" + "".join(self.lines)
        return found

    @property
    def address(self) -> str:
        """host:port, once it serves."""
        return str(self.wait_for("serving")["address"])

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """The exit status."""
        status = self.process.wait(60)
        self._reader.join()
        return status

    def _first(self, event: str) -> dict[str, Any] | None:
        for line in self.lines:
            if line.startswith("{") and (entry := json.loads(line))["event"] == event:
                return dict(entry)
        return None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._came:
                self.lines.append(line)
                self._came.notify_all()
        with self._came:
            self._ended = True
            self._came.notify_all()


@contextmanager
def running_service(name: str, variables: dict[str, str]) -> Iterator[ServiceProcess]:
    """A service process for the length of the context."""
    service = ServiceProcess(name, variables)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def registry_variables(folder: Path, base: Path | str, hub: str, **options: str) -> dict[str, str]:
    """A registry with its state in `folder`, and one base: a local folder, or a repo on the hub."""
    source: dict[str, object] = {"local_path": str(base)}
    if isinstance(base, str):
        source = {"local_path": None, "hub_repo": base}
    (folder / "bases.toml").write_text(
        base_list(folder, name=BASE, max_lora_rank=64, target_modules=list(LLAMA_MODULES), **source)
    )
    return {
        "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'registry.db'}",
        "BASE_MODELS_FILE": str(folder / "bases.toml"),
        "HUB_ENDPOINT": hub,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "GATEWAY_SECRET": GATEWAY_SECRET,
        "WORKER_SECRET": WORKER_SECRET,
        "DISPATCH_SECRET": DISPATCH_SECRET,
        "DRAIN_SECONDS": "5",
        **options,
    }


def worker_variables(registry: str, hub: str, cache: Path, **options: str) -> dict[str, str]:
    """What a worker is told; float32, so that greedy choices are the same in any batch."""
    return {
        "REGISTRY_ADDRESS": registry,
        "WORKER_SECRET": WORKER_SECRET,
        "DISPATCH_SECRET": DISPATCH_SECRET,
        "BASE_MODEL": BASE,
        "CACHE_DIR": str(cache),
        "HUB_ENDPOINT": hub,
        "DTYPE": "float32",
        "THREADS": "1",
        "KV_TOKENS": "8192",
        **options,
    }


@dataclass(frozen=True)
class Answer:
    """A whole stream."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[worker_pb2.TokenLogprob, ...]
    choice: worker_pb2.Choice
    usage: worker_pb2.Summary


class WorkerClient:
    """Calls one worker as a gateway or the registry does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = worker_pb2_grpc.WorkerServiceStub(channel)

    def stream(
        self,
        prompt: Sequence[int],
        adapter: fleet_pb2.AdapterRef | None = None,
        *,
        resumed: Sequence[worker_pb2.ResumedChoice] = (),
        **sampling: Any,  # Sampling's fields
    ) -> "grpc.aio.UnaryStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]":
        """A greedy request, unless told otherwise."""
        complete = {
            "temperature": 0.0,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "n": 1,
            "seed": 1,
            "max_tokens": 16,
        }
        params = worker_pb2.Sampling(**{**complete, **sampling})
        request = worker_pb2.GenerateRequest(
            request_id="test",
            account="acme",
            adapter=adapter,
            prompt_token_ids=prompt,
            sampling=params,
            resumed=resumed,
        )
        return self.stub.Generate(request, metadata=CALLS.metadata(request_id="test"), timeout=60)

    async def answer(
        self, prompt: Sequence[int], adapter: fleet_pb2.AdapterRef | None = None, **sampling: Any
    ) -> Answer:
        """A request to its end."""
        return await collect(self.stream(prompt, adapter, **sampling))

    async def refusal(
        self, prompt: Sequence[int], adapter: fleet_pb2.AdapterRef | None = None, **sampling: Any
    ) -> sdk.LoramuxError:
        """What a request is refused with."""
        try:
            await self.answer(prompt, adapter, **sampling)
        except grpc.aio.AioRpcError as error:
            return sdk.from_rpc_error(error)
        raise AssertionError("the request was not refused")

    async def load(self, adapter: fleet_pb2.AdapterRef | None) -> None:
        """LoadAdapter."""
        request = worker_pb2.LoadAdapterRequest(adapter=adapter)
        await self.stub.LoadAdapter(request, metadata=CALLS.metadata(), timeout=60)

    async def load_refusal(self, adapter: fleet_pb2.AdapterRef | None) -> sdk.LoramuxError:
        """What LoadAdapter is refused with."""
        try:
            await self.load(adapter)
        except grpc.aio.AioRpcError as error:
            return sdk.from_rpc_error(error)
        raise AssertionError("the adapter was not refused")

    async def stats(self) -> worker_pb2.GetStatsResponse:
        """GetStats."""
        return await self.stub.GetStats(worker_pb2.GetStatsRequest(), metadata=CALLS.metadata(), timeout=60)

    async def until(self, met: Callable[[worker_pb2.GetStatsResponse], bool]) -> None:
        """Ask GetStats until it says what is waited for."""
        async with asyncio.timeout(30):
            while not met(await self.stats()):
                pass

    async def until_idle(self) -> None:
        """Return once nothing runs, waits or is held."""
        await self.until(
            lambda stats: (
                not (
                    stats.running_sequences
                    or stats.waiting_sequences
                    or any(adapter.pins for adapter in stats.adapters)
                )
            )
        )


async def first_message(
    call: "grpc.aio.UnaryStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]",
) -> worker_pb2.GenerateResponse:
    """A stream's first message with tokens; `collect` can take the others."""
    async for response in call:
        if response.WhichOneof("event") != "started":
            return response
    raise AssertionError("the stream has no message with tokens")


async def collect(
    call: "grpc.aio.UnaryStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]",
) -> Answer:
    """A stream to its end, which must be one summary."""
    text: list[str] = []
    token_ids: list[int] = []
    logprobs: list[worker_pb2.TokenLogprob] = []
    summaries: list[worker_pb2.Summary] = []
    async for response in call:
        assert not summaries
        if response.WhichOneof("event") == "summary":
            summaries.append(response.summary)
        elif response.WhichOneof("event") == "chunk":
            text.append(response.chunk.text)
            token_ids += response.chunk.token_ids
            logprobs += response.chunk.logprobs
    (summary,) = summaries
    return Answer("".join(text), tuple(token_ids), tuple(logprobs), summary.choices[0], summary)


@asynccontextmanager
async def worker_client(address: str) -> AsyncIterator[WorkerClient]:
    """A client with a channel of its own."""
    async with CALLS.channel(address) as channel:
        yield WorkerClient(channel)


def publish(hub: LocalHub, repo: str, folder: Path, *, private: bool = False) -> fleet_pb2.AdapterRef:
    """Put an adapter on the hub; the reference that the registry would make of it."""
    commit = hub.add_repo(repo, folder, private=private)
    return reference(folder, repo, commit)


def reference(folder: Path, repo: str, commit: str) -> fleet_pb2.AdapterRef:
    """The reference to an adapter whose files are in `folder`."""
    contents = [(folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")]
    config, weights = (hashlib.sha256(content).hexdigest() for content in contents)
    return fleet_pb2.AdapterRef(
        digest=hashlib.sha256(f"{config}\n{weights}\n".encode()).hexdigest(),
        hub_repo=repo,
        commit=commit,
        config_sha256=config,
        weights_sha256=weights,
        size_bytes=sum(map(len, contents)),
    )


def fill_weights(path: Path, value: float) -> None:
    """Put this number in place of every weight of a safetensors file of float32."""
    content = path.read_bytes()
    (header,) = struct.unpack_from("<Q", content)
    start = 8 + header
    path.write_bytes(content[:start] + struct.pack("<f", value) * ((len(content) - start) // 4))
