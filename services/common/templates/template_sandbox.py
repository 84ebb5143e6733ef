"""Templates of strangers, compiled and rendered where they can harm nobody: in processes with little time and memory."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common import errors, logs
from services.common.clock import Clock, SystemClock
from services.common.templates.chat_template import ChatTemplateError, Message, TemplateWords
from services.common.templates.sandbox_process import CPU_SECONDS, LENGTH, encode

_PROCESSES = 2
# A template that took too long is not tried again for its owner for so long.
_CONDEMNED_SECONDS = 60.0
_MOST_CONDEMNED = 1_024
# Beyond it an owner's questions do not wait.
_MOST_WAITING = 256
# The kernel ends a process that computes too long; this is for one that does nothing, which none should.
_SILENT_SECONDS = 20.0
# What a process needs of this one's environment: where Python is, and the time zone. No secret is passed on.
_VARIABLES = ("PATH", "TZ", "LANG", "LC_ALL")

# Where this process finds its own code, wherever it was started.
_CODE = os.pathsep.join(os.path.realpath(path) for path in sys.path if path)

_log = logs.get_logger(__name__)


class TemplateCostError(ChatTemplateError):
    """The template takes more time or memory than one may."""


@dataclass
class _Turn:
    """An owner's questions, one after the other: whoever has many holds one process, and not all."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class TemplateSandbox:
    """Asks its processes, which begin when they are first needed, and again when a template has ended one.

    Every question has an owner: what one does to a template, or with many questions, is no other's loss. All methods
    raise ChatTemplateError, TemplateCostError among them, and UnavailableError where no process can be had.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._places = asyncio.Semaphore(_PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []
        self._condemned: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._turns: dict[str, _Turn] = {}
        self._asking: set[asyncio.Task[dict[str, Any]]] = set()

    async def check(self, source: str, *, owner: str = "") -> TemplateWords:
        """What a template says. Raises for what is no template."""
        question = {"ask": "check", "source": source, "special_tokens": {}}
        answer = await self._ask(owner, question)
        return TemplateWords(frozenset(answer["names"]), answer["words"])

    async def render(
        self, source: str, special_tokens: Mapping[str, str], messages: Sequence[Message], *, owner: str = ""
    ) -> str:
        """As ChatTemplate.render."""
        question = {
            "ask": "render",
            "source": source,
            "special_tokens": dict(special_tokens),
            "messages": [dict(message) for message in messages],
        }
        return str((await self._ask(owner, question))["text"])

    async def stop(self) -> None:
        """End every process."""
        await asyncio.gather(*self._asking, return_exceptions=True)
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, owner: str, question: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
        turn = self._turns.setdefault(owner, _Turn())
        if turn.waiting >= _MOST_WAITING:
            raise _unavailable(f"{_MOST_WAITING} chats of this account wait for their templates")
        turn.waiting += 1
        try:
            # Here, and not in the task: who leaves while he waits leaves the queue.
            async with turn.lock, self._places:
                answer = await self._ask_once(owner, question)
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._turns.pop(owner, None)
        if "costs" in answer:
            raise TemplateCostError(f"it takes {answer['costs']}")
        if "error" in answer:
            raise ChatTemplateError(answer["error"])
        return answer

    async def _ask_once(self, owner: str, question: dict[str, Any]) -> dict[str, Any]:  # Any: as above
        key = hashlib.sha256(f"{owner}\0{question['source']}".encode(errors="replace")).digest()
        until, costs = self._condemned.get(key, (0.0, ""))
        if self._clock.monotonic() < until:
            return {"costs": f"{costs}, and is not tried again for {_CONDEMNED_SECONDS:.0f} s"}
        # Who leaves now must not leave half an answer in the pipe for the next.
        asking = asyncio.create_task(self._ask_a_process(question))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # Its place is free when its process is.
            await asyncio.wait([asking])
            raise
        if "costs" in answer:
            _log.warning("template_too_costly", owner=owner, sha256=key.hex(), costs=answer["costs"])
            self._condemned[key] = (self._clock.monotonic() + _CONDEMNED_SECONDS, answer["costs"])
            while len(self._condemned) > _MOST_CONDEMNED:
                self._condemned.popitem(last=False)
        return answer

    async def _ask_a_process(self, question: dict[str, Any]) -> dict[str, Any]:  # Any: as above
        while True:
            fresh = not self._idle
            process = await _begin() if fresh else self._idle.pop()
            try:
                async with asyncio.timeout(_SILENT_SECONDS):
                    answer = await _exchange(process, question)
            except (asyncio.IncompleteReadError, OSError):  # TimeoutError is one of them
                status = await _end(process)
                if status == -signal.SIGPROF:
                    return {"costs": f"more than {CPU_SECONDS} s of a processor"}
                if fresh:
                    return {"costs": f"so much that its process ended with status {status}"}
                # It had ended while nobody asked: this question is not to blame.
                continue
            except BaseException:
                await _end(process)
                raise
            if answer["last"]:
                await _end(process)
            else:
                self._idle.append(process)
            return answer


async def _begin() -> asyncio.subprocess.Process:
    """A process that is ready. Raises UnavailableError."""
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    variables["PYTHONPATH"] = _CODE
    try:
        process = await asyncio.create_subprocess_exec(
            # -P: a folder that it is started in brings no code.
            sys.executable, "-P", "-m", "services.common.templates.sandbox_process",
            env=variables, cwd="/", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise _unavailable(f"no process can be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(_SILENT_SECONDS):
            await _read(process)
    except (asyncio.IncompleteReadError, OSError) as error:
        status = await _end(process)
        raise _unavailable(f"its process ended with status {status} before it was asked") from error
    except BaseException:
        await _end(process)
        raise
    return process


def _unavailable(why: str) -> errors.UnavailableError:
    return errors.UnavailableError(
        "TEMPLATE_SANDBOX_UNAVAILABLE",
        f"the chat template of the adapter's repo cannot be rendered now: {why}",
        retry_after=1.0,
    )


# Any: JSON values.
async def _exchange(process: asyncio.subprocess.Process, question: dict[str, Any]) -> dict[str, Any]:
    if process.stdin is None:
        raise AssertionError("a process was begun without pipes")
    process.stdin.write(await asyncio.to_thread(encode, question))
    await process.stdin.drain()
    return await _read(process)


# Any: JSON values.
async def _read(process: asyncio.subprocess.Process) -> dict[str, Any]:
    if process.stdout is None:
        raise AssertionError("a process was begun without pipes")
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    data = await process.stdout.readexactly(length)
    answer: dict[str, Any] = await asyncio.to_thread(json.loads, data)
    return answer


async def _end(process: asyncio.subprocess.Process) -> int:
    """Its status; below zero the signal that ended it."""
    try:
        # One that has ended by itself says how; killed in the meantime, it would not.
        async with asyncio.timeout(0.1):
            return await process.wait()
    except TimeoutError:
        process.kill()
    return await process.wait()
