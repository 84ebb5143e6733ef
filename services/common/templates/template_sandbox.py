"""Templates of strangers, compiled and rendered where they can harm nobody: in processes with little time and memory."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from services.common import errors, logs
from services.common.clock import Clock, SystemClock
from services.common.templates.chat_template import ChatTemplateError, Message
from services.common.templates.sandbox_process import CPU_SECONDS, LENGTH, encode

_PROCESSES = 2
# A template that took too long is not tried again for so long: else who owns it could keep every process busy.
_CONDEMNED_SECONDS = 60.0
_MOST_CONDEMNED = 1_024
# What a process needs of this one's environment: where Python is, and the time zone. No secret is passed on.
_VARIABLES = ("PATH", "PYTHONPATH", "TZ", "LANG", "LC_ALL")

_log = logs.get_logger(__name__)


class TemplateCostError(ChatTemplateError):
    """The template takes more time or memory than one may."""


class TemplateSandbox:
    """Asks its processes, which begin when they are first needed, and again when a template has ended one."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._places = asyncio.Semaphore(_PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []
        self._condemned: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._asking: set[asyncio.Task[dict[str, Any]]] = set()

    async def check(self, source: str) -> frozenset[str]:
        """The names that a template looks up. Raises ChatTemplateError for what is no template."""
        return frozenset((await self._ask({"ask": "check", "source": source, "special_tokens": {}}))["names"])

    async def render(
        self, source: str, special_tokens: Mapping[str, str], messages: Sequence[Message]
    ) -> str:
        """As ChatTemplate.render. Raises ChatTemplateError, TemplateCostError among them, and UnavailableError."""
        question = {
            "ask": "render",
            "source": source,
            "special_tokens": dict(special_tokens),
            "messages": [dict(message) for message in messages],
        }
        return str((await self._ask(question))["text"])

    async def stop(self) -> None:
        """End every process."""
        await asyncio.gather(*self._asking, return_exceptions=True)
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
        key = hashlib.sha256(question["source"].encode(errors="replace")).digest()
        # Who leaves while it is asked must not leave half an answer in the pipe for the next.
        asking = asyncio.create_task(self._answer(key, question))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        answer = await asyncio.shield(asking)
        if "costs" in answer:
            raise TemplateCostError(f"it takes {answer['costs']}")
        if "error" in answer:
            raise ChatTemplateError(answer["error"])
        return answer

    async def _answer(self, key: bytes, question: dict[str, Any]) -> dict[str, Any]:  # Any: as above
        async with self._places:
            # Inside: others may have asked the same while this one waited.
            until, costs = self._condemned.get(key, (0.0, ""))
            if self._clock.monotonic() < until:
                return {"costs": f"{costs}, and is not tried again for {_CONDEMNED_SECONDS:.0f} s"}
            answer = await self._ask_a_process(question)
            if "costs" in answer:
                _log.warning("template_too_costly", sha256=key.hex(), costs=answer["costs"])
                self._condemned[key] = (self._clock.monotonic() + _CONDEMNED_SECONDS, answer["costs"])
                while len(self._condemned) > _MOST_CONDEMNED:
                    self._condemned.popitem(last=False)
            return answer

    async def _ask_a_process(self, question: dict[str, Any]) -> dict[str, Any]:  # Any: as above
        while True:
            fresh = not self._idle
            process = await _begin() if fresh else self._idle.pop()
            try:
                answer = await _exchange(process, question)
            except (asyncio.IncompleteReadError, OSError):
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
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    try:
        return await asyncio.create_subprocess_exec(
            # -P: a folder that it is started in brings no code.
            sys.executable, "-P", "-m", "services.common.templates.sandbox_process",
            env=variables, cwd="/", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise errors.UnavailableError(
            "TEMPLATE_SANDBOX_UNAVAILABLE",
            "no process can be started to render the adapter's chat template",
            retry_after=1.0,
        ) from error


# Any: JSON values.
async def _exchange(process: asyncio.subprocess.Process, question: dict[str, Any]) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("a process was begun without pipes")
    process.stdin.write(encode(question))
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    data = await process.stdout.readexactly(length)
    answer: dict[str, Any] = await asyncio.to_thread(json.loads, data)
    return answer


async def _end(process: asyncio.subprocess.Process) -> int:
    """Its status; below zero the signal that ended it."""
    if process.returncode is None:
        process.kill()
    return await process.wait()
