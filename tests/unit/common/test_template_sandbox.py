"""Chat templates of strangers: rendered as any other, and able to harm nobody."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.errors import UnavailableError
from services.common.templates import template_sandbox
from services.common.templates.chat_template import MAX_TEXT, ChatTemplate, ChatTemplateError
from services.common.templates.template_sandbox import TemplateCostError, TemplateSandbox
from tests.support.gateway_clock import ManualClock

MESSAGES = [{"role": "user", "content": "naïve 漢字 \n\0 {{ x }}"}]
SIMPLE = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}"
# Each takes time, or memory, at its compiling or its rendering, in Python's code or in C's.
COSTLY = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 2 ** (10 ** 9) }}",
    "repeat": "{{ 'a' * 10 ** 9 }}",
    "more than there is": "{{ 'a' * 10 ** 12 }}",
    "filter": "{{ 'a' | center(10 ** 9) }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "list": "{{ [0] * 10 ** 9 }}",
    "format": "{{ '%999999999d' % 1 }}",
}


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.fixture
async def sandbox() -> AsyncIterator[TemplateSandbox]:
    made = TemplateSandbox()
    yield made
    await made.stop()


async def test_it_renders_what_the_process_itself_would(sandbox: TemplateSandbox) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected = ChatTemplate(SIMPLE, tokens).render(MESSAGES)
    assert await sandbox.render(SIMPLE, tokens, MESSAGES) == expected
    assert await sandbox.render(SIMPLE, {}, MESSAGES) == ChatTemplate(SIMPLE, {}).render(MESSAGES)


async def test_it_says_what_a_template_looks_up_and_writes(sandbox: TemplateSandbox) -> None:
    source = (
        "{# [PAD] #}{% if x == '<a>' %}<b>{{ m.role ~ '<c>' }}{% endif %}{% for m in messages %}{% endfor %}"
    )
    words = await sandbox.check(source)
    assert words.names == {"x", "m", "messages"}
    assert sorted(words.text.split("\0")) == ["<a>", "<b>", "<c>"]


@pytest.mark.parametrize("source", COSTLY.values(), ids=COSTLY)
async def test_what_takes_too_much_is_refused_and_the_next_template_is_not(
    sandbox: TemplateSandbox, source: str
) -> None:
    with pytest.raises(TemplateCostError, match="it takes"):
        await sandbox.render(source, {}, MESSAGES)
    assert await sandbox.render("{{ messages[0].role }}", {}, MESSAGES) == "user"


async def test_a_costly_one_is_not_tried_again_for_a_while_and_for_its_owner_alone() -> None:
    """A source that many share costs what the one makes of it who sends it a megabyte."""
    clock = ManualClock()
    sandbox = TemplateSandbox(clock)
    source = "{% if messages[0].content == 'bomb' %}{{ 'a' * 10 ** 12 }}{% endif %}ok"
    bomb = [{"role": "user", "content": "bomb"}]
    for told in (r"memory$", "not tried again"):
        with pytest.raises(TemplateCostError, match=told):
            await sandbox.render(source, {}, bomb, owner="attacker")
    assert await sandbox.render(source, {}, MESSAGES, owner="victim") == "ok"
    clock.advance(61)
    assert await sandbox.render(source, {}, MESSAGES, owner="attacker") == "ok"
    await sandbox.stop()


SLOW = "{% for i in range(20) %}{% for j in range(40000) %}{% endfor %}{% endfor %}ok"


async def test_one_owners_many_questions_hold_up_no_other_and_leave_with_their_callers(
    sandbox: TemplateSandbox,
) -> None:
    # More than can be answered while the other's process begins.
    asked = [asyncio.create_task(sandbox.render(SLOW, {}, MESSAGES, owner="busy")) for _ in range(250)]
    await asyncio.sleep(0)
    assert await sandbox.render("ok", {}, MESSAGES, owner="other") == "ok"
    assert sum(one.done() for one in asked) < len(asked)
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert len(sandbox._asking) == 0
    assert sandbox._turns == {}
    assert await sandbox.render("ok", {}, MESSAGES, owner="busy") == "ok"


async def test_an_owners_queue_has_an_end(sandbox: TemplateSandbox) -> None:
    asked = [asyncio.create_task(sandbox.render(SLOW, {}, MESSAGES, owner="busy")) for _ in range(300)]
    await asyncio.sleep(0)
    refused = [one for one in asked if one.done() and isinstance(one.exception(), UnavailableError)]
    assert len(refused) == 300 - 256
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_overruns_are_told_as_what_they_are_each_time(sandbox: TemplateSandbox) -> None:
    for number in range(6):
        source = COSTLY["loops"] + str(number)
        with pytest.raises(TemplateCostError, match=r"more than 0.5 s of a processor"):
            await sandbox.render(source, {}, MESSAGES)


async def test_a_process_that_does_not_begin_is_no_templates_fault(
    sandbox: TemplateSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_sandbox, "_CODE", "/nowhere")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UnavailableError) as caught:
        await sandbox.render("ok", {}, MESSAGES)
    assert caught.value.reason == "TEMPLATE_SANDBOX_UNAVAILABLE"
    monkeypatch.undo()
    assert await sandbox.render("ok", {}, MESSAGES) == "ok"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{% if %}", "line 1: "),
        ("\n{{ x | nope }}", "line 2: No filter named 'nope'"),
        ("{{" + "(" * 5_000 + "1" + ")" * 5_000 + "}}", "nested too deeply"),
        ("{{ raise_exception('roles must alternate') }}", "^roles must alternate$"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ 'a' * 10 ** 7 }}", f"more than {MAX_TEXT} characters"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "."),
        ("{{ messages.append(1) }}", "."),
        ("{% include '/etc/passwd' %}", "."),
        ("{{ " + "9" * 5_000 + " }}", "."),
    ],
)
async def test_what_a_template_does_wrong_is_told(sandbox: TemplateSandbox, source: str, told: str) -> None:
    with pytest.raises(ChatTemplateError, match=told) as caught:
        await sandbox.render(source, {}, MESSAGES)
    assert not isinstance(caught.value, TemplateCostError)
    assert await sandbox.render("ok", {}, MESSAGES) == "ok"


async def test_many_at_once_get_their_own_answers_with_leavers_among_them(sandbox: TemplateSandbox) -> None:
    async def ask(number: int) -> str:
        return await sandbox.render(SIMPLE, {}, [{"role": "user", "content": str(number)}])

    asked = [asyncio.create_task(ask(number)) for number in range(40)]
    await asyncio.sleep(0)
    for leaver in asked[::3]:
        leaver.cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for number, answer in enumerate(answers):
        assert answer == f"user: {number}\n" or (
            number % 3 == 0 and isinstance(answer, asyncio.CancelledError)
        )


async def test_a_process_that_somebody_ended_is_replaced_and_no_template_is_blamed(
    sandbox: TemplateSandbox,
) -> None:
    await sandbox.render("ok", {}, MESSAGES)
    (process,) = sandbox._idle
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await sandbox.render("ok", {}, MESSAGES) == "ok"


async def test_its_process_knows_no_secret_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_GATEWAY_DISPATCH_SECRET", "a-secret-of-ours")
    sandbox = TemplateSandbox()
    await sandbox.render("ok", {}, MESSAGES)
    (process,) = sandbox._idle
    assert b"a-secret-of-ours" not in environment(process.pid)
    await sandbox.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
