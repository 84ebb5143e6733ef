"""The process in which templates of strangers are compiled and rendered: `python -m` this, asked through its pipes.

A frame is the length of what follows, four bytes, big end first, and a JSON object. It says that it is `ready`. Asked to
`render`, it answers with a `text`; asked to `check`, with the `names` that the template looks up and the `words` that it
writes; and with an `error` where a template refuses or is none. One that takes more than its seconds of CPU ends the process: that is the kernel's signal, which waits for no
line of Python to end. A process that has grown says in its answer that it was its `last`.
"""

import json
import resource
import signal
import struct
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from services.common.templates.chat_template import ChatTemplate, ChatTemplateError, words_of

LENGTH = struct.Struct(">I")
MEMORY_BYTES = 512 * 1024**2
CPU_SECONDS = 0.5
"""Of one question. A template takes a millisecond."""
# Beyond it a template of the past has left something behind, of which the next ones would have less.
_GROWN_BYTES = 128 * 1024**2
_COMPILED_KEPT = 64


def encode(message: dict[str, Any]) -> bytes:  # Any: JSON values
    """A frame."""
    data = json.dumps(message, ensure_ascii=False).encode(errors="replace")
    return LENGTH.pack(len(data)) + data


def main() -> None:
    """Answer until the pipe is closed."""
    # The terminal's interrupt goes to everybody; this process ends with its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(encode({"ready": True}))
    answers.flush()
    while (question := _read(questions)) is not None:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = _answer(question)
        answer["last"] = _memory_bytes() > _GROWN_BYTES
        frame = encode(answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(frame)
        answers.flush()


def _memory_bytes() -> int:
    """What it holds now. Its peak would count the parent that it was forked from."""
    _, resident, *_ = Path("/proc/self/statm").read_text().split()
    return int(resident) * resource.getpagesize()


def _read(pipe: BinaryIO) -> dict[str, Any] | None:  # Any: JSON values
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    question: dict[str, Any] = json.loads(pipe.read(LENGTH.unpack(head)[0]))
    return question


def _answer(question: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    try:
        template = _compiled(question["source"], tuple(sorted(question["special_tokens"].items())))
        if question["ask"] == "check":
            words = words_of(question["source"])
            return {"names": sorted(words.names), "words": words.text}
        return {"text": template.render(question["messages"])}
    except ChatTemplateError as error:
        return {"error": str(error)[:1_000]}
    except MemoryError:
        return {"costs": f"more than {MEMORY_BYTES // 1024**2} MiB of memory"}
    except Exception as error:  # what a stranger's template does to jinja is told, and ends nothing
        return {"error": f"{type(error).__name__} in the template"}


@lru_cache(_COMPILED_KEPT)
def _compiled(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))


if __name__ == "__main__":
    main()
