"""What the worker makes of an engine that breaks over an adapter, or beside it."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from services.common import errors
from services.common.adapters.version import AdapterVersion
from services.worker.adapters.ready_adapters import Adapters
from services.worker.engine.interface import (
    AdapterFiles,
    EngineOutput,
    EngineRequest,
    EngineStoppedError,
    Finish,
    NotFiniteError,
    TokenLogprob,
)

VERSION = AdapterVersion("d" * 64, "acme/pirate", "c" * 40, "a" * 64, "b" * 64, 10)
SPOKEN = EngineOutput((1,), (TokenLogprob(1, -0.5, ()),), finish=Finish.LENGTH)


class Store:
    """Has every adapter."""

    def __init__(self) -> None:
        self.discarded: list[str] = []

    @asynccontextmanager
    async def hold(self, version: AdapterVersion) -> AsyncIterator[AdapterFiles]:
        yield AdapterFiles(version.digest, Path("/nowhere"))

    def discard(self, digest: str) -> None:
        self.discarded.append(digest)


class Engine:
    """Loads, and answers, as it is told."""

    def __init__(self, *answers: EngineOutput | Exception, load: Exception | None = None) -> None:
        self._answers = list(answers)
        self._load = load

    @asynccontextmanager
    async def adapter(self, _files: AdapterFiles) -> AsyncIterator[None]:
        if self._load is not None:
            raise self._load
        yield

    async def generate(self, _request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield answer


async def probe(engine: Engine) -> tuple[errors.ServiceError | None, Store]:
    store = Store()
    adapters = Adapters(cast("Any", store), cast("Any", engine), probe_prompt=[1], changed=lambda: None)
    try:
        await adapters.probe(VERSION)
    except errors.ServiceError as error:
        return error, store
    return None, store


@pytest.mark.parametrize(
    "raised", [OverflowError("int too large"), KeyError("x"), RuntimeError("CUDA error")]
)
async def test_whatever_a_loader_raises_names_the_adapter_and_is_no_lost_worker(raised: Exception) -> None:
    error, store = await probe(Engine(load=raised))
    assert isinstance(error, errors.PreconditionError)
    assert error.reason == "ADAPTER_LOAD_FAILED"
    assert error.metadata["digest"] == VERSION.digest
    assert error.metadata["kind"] == type(raised).__name__
    assert str(raised) not in error.message
    assert store.discarded == []


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize("raised", [MemoryError(), OutOfMemoryError("CUDA out of memory")])
async def test_memory_that_ran_out_says_come_back(raised: Exception) -> None:
    error, _ = await probe(Engine(load=raised))
    assert isinstance(error, errors.UnavailableError)
    assert error.reason == "ADAPTER_MEMORY_FULL"


async def test_what_the_config_says_wrong_is_passed_on_and_its_files_go() -> None:
    refused = errors.InvalidFieldError("adapter_config.json: r", 0, "at least 1")
    error, store = await probe(Engine(load=refused))
    assert error is refused
    assert store.discarded == [VERSION.digest]


async def test_a_step_that_failed_for_all_condemns_no_adapter() -> None:
    assert (await probe(Engine(SPOKEN)))[0] is None
    error, store = await probe(Engine(EngineStoppedError("the step failed"), SPOKEN))
    assert (error, store.discarded) == (None, [])
    error, store = await probe(Engine(*[EngineStoppedError("the step failed")] * 2))
    assert isinstance(error, errors.UnavailableError)
    assert (error.reason, store.discarded) == ("ENGINE_STOPPED", [])


async def test_numbers_that_are_not_finite_condemn_it_unless_the_base_has_them_too() -> None:
    error, store = await probe(Engine(NotFiniteError("nan"), SPOKEN))
    assert error is not None
    assert (error.reason, store.discarded) == ("ADAPTER_NOT_FINITE", [VERSION.digest])
    error, store = await probe(Engine(NotFiniteError("nan"), NotFiniteError("nan")))
    assert error is not None
    assert (error.reason, store.discarded) == ("ENGINE_STOPPED", [])
