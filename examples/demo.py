"""The whole line on this machine: real weights, a local Hub, three services, three adapters, one bill.

Run by `make demo`. Exits 0 only when everything below was seen to hold.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

import loramux
from loramux import errors
from loramux.account.v1 import usage_pb2
from loramux.cli.embedded.embedded_services import Embedded, EmbeddedConfig, Event
from loramux.localhub import LocalHub, running

ADAPTERS = Path(__file__).parent / "adapters"
PROMPT = "Tell me about Paris, the capital of France."
ACCOUNT = "demo"
HUB_TOKEN = "hf_demo0private0token"  # noqa: S105 - of the local Hub below, which this script makes
IN_FLIGHT = 4
COLUMNS = {"base": "white", "pirate": "yellow", "french": "cyan", "json": "green"}

console = Console(width=min(Console().width, 110) if sys.stdout.isatty() else 110, record=True)


class DemoError(Exception):
    """Something that the demo promises did not happen."""


def say(text: str) -> None:
    console.print(f"[bold blue]==>[/] {text}")


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="loramux-demo-") as folder:
        hub = LocalHub(Path(folder) / "hub")
        hub.add_token(HUB_TOKEN, "alice")
        hub.add_repo("alice/pirate", ADAPTERS / "pirate")
        hub.add_repo("alice/json-extractor", ADAPTERS / "json")
        hub.add_repo("alice/french", ADAPTERS / "french", private=True, allowed_users=["alice"])
        with running(hub) as endpoint:
            say(f"a local Hub at {endpoint}, for the real huggingface_hub client")
            config = EmbeddedConfig(data_dir=Path(folder) / "data", hub_endpoint=endpoint)
            say("the base model and the three services (the first run prepares the weights)")
            with Embedded(config, on_event=show_event) as services:
                asyncio.run(tour(services))
                say("stopping everything")
    say(f"done in {time.monotonic() - started:.0f} s")
    if len(sys.argv) > 1:
        console.save_svg(sys.argv[1], title="make demo")


def show_event(event: Event) -> None:
    console.print(f"    [dim]{event.service}: {event.detail or event.kind}[/]")


async def tour(services: Embedded) -> None:
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(loramux.Client(services.target, services.operator_key))
        await operator.create_account(ACCOUNT, credit_pico_usd=10**12, max_in_flight=IN_FLIGHT)
        secret = (await operator.create_key("demo", account=ACCOUNT)).secret
        say(f"account {ACCOUNT!r}, with 1 USD and {IN_FLIGHT} requests in flight; key {secret[:8]}...")
        client = await stack.enter_async_context(loramux.Client(services.target, secret))
        base = await list_base_models(client)
        await deploy(client, "pirate", "alice/pirate", base)
        await deploy(client, "json", "alice/json-extractor", base)
        await deploy_private(client, base)
        await ask_all(client, base)
        await fill_the_pool(client)
        await show_bill(client)


async def list_base_models(client: loramux.Client) -> str:
    table = Table("base model", "commit", "context", "max rank", "base price", "LoRA price")
    bases = await client.list_base_models()
    for base in bases:
        prices = [
            f"{price.prompt_pico_usd:,} / {price.completion_pico_usd:,}"
            for price in (base.price, base.lora_price)
        ]
        table.add_row(
            base.name, base.commit[:19], f"{base.context_length:,}", str(base.max_lora_rank), *prices
        )
    console.print(table)
    console.print("    prices in pico-USD a token, prompt / completion", style="dim")
    return bases[0].name


async def deploy(client: loramux.Client, name: str, repo: str, base: str, hub_token: str = "") -> None:
    began = time.monotonic()
    await client.create_deployment(name, repo, base_model=base, hub_token=hub_token)
    deployment = await client.wait_until_running(f"{ACCOUNT}/{name}")
    adapter = deployment.serving
    say(
        f"[bold]{deployment.name}[/] runs {repo}@{adapter.commit[:7]}, rank {adapter.rank},"
        f" after {time.monotonic() - began:.1f} s"
    )


async def deploy_private(client: loramux.Client, base: str) -> None:
    try:
        await deploy(client, "french", "alice/french", base)
    except loramux.DeploymentFailedError as error:
        console.print(f"    [red]without its token:[/] {error}")
    else:
        raise DemoError("a private repo was deployed without its token")
    await client.delete_deployment(f"{ACCOUNT}/french")
    await deploy(client, "french", "alice/french", base, HUB_TOKEN)


async def ask_all(client: loramux.Client, base: str) -> None:
    say(f"one prompt, four models, one batch: [italic]{PROMPT}[/]")
    models = {"base": base, **{name: f"{ACCOUNT}/{name}" for name in COLUMNS if name != "base"}}

    answers = dict.fromkeys(models, "")

    def shown() -> Table:
        table = Table(*(f"[{COLUMNS[name]}]{name}[/]" for name in models), show_lines=True)
        table.add_row(*(answer.strip() for answer in answers.values()))
        return table

    async def ask(name: str, live: Live) -> None:
        stream = client.generate(
            models[name], messages=[{"role": "user", "content": PROMPT}], max_tokens=48, temperature=0
        )
        async for chunk in stream:
            answers[name] += chunk.text
            live.update(shown())

    with Live(shown(), console=console) as live:
        await asyncio.gather(*(ask(name, live) for name in models))
    if not console.is_terminal:
        console.print()  # Live ends no line where it could not redraw
    if len(set(answers.values())) != len(answers):
        raise DemoError("two models gave the same answer")


async def fill_the_pool(client: loramux.Client) -> None:
    """Hold as many requests as the pool has places, over three adapters, then ask for one more."""
    names = ["pirate", "french", "json"]
    held = []
    async with AsyncExitStack() as stack:
        for number in range(IN_FLIGHT):
            stream = client.generate(
                f"{ACCOUNT}/{names[number % 3]}", "The sea", max_tokens=400, ignore_eos=True
            )
            await stack.enter_async_context(stream)
            chunks = aiter(stream)
            held.append(chunks)  # a stream whose iterator is let go is cancelled
            await anext(chunks)
        try:
            await client.generate(f"{ACCOUNT}/pirate", "The sea", max_tokens=1).text()
        except errors.LimitReachedError as error:
            say(f"request {IN_FLIGHT + 1} over all three adapters: [red]{error.reason}[/], {error.message}")
            console.print(f"    retry after {error.retry_after} s", style="dim")
        else:
            raise DemoError(f"the pool of {IN_FLIGHT} took one more")


async def show_bill(client: loramux.Client) -> None:
    bill = await client.get_bill()
    say("the bill, in pico-USD (1e-12 USD)")
    table = Table(
        "model", "requests", "prompt", "completion", "a prompt token", "a completion token", "total"
    )
    base = next(line for line in bill.lines if line.kind == usage_pb2.BillLine.KIND_BASE)
    for line in bill.lines:
        table.add_row(
            line.model,
            f"{line.requests}",
            f"{line.prompt_tokens:,}",
            f"{line.completion_tokens:,}",
            f"{line.price.prompt_pico_usd:,}",
            f"{line.price.completion_pico_usd:,}",
            f"{line.total_pico_usd:,}",
        )
        ratio = (3, 2) if line.kind == usage_pb2.BillLine.KIND_LORA else (1, 1)
        for paid, plain in (
            (line.price.prompt_pico_usd, base.price.prompt_pico_usd),
            (line.price.completion_pico_usd, base.price.completion_pico_usd),
        ):
            if paid * ratio[1] != plain * ratio[0]:
                raise DemoError(f"{line.model} costs {paid} a token where the base costs {plain}")
        if line.total_pico_usd != (
            (line.prompt_tokens - line.cached_tokens) * line.price.prompt_pico_usd
            + line.cached_tokens * line.price.cached_prompt_pico_usd
            + line.completion_tokens * line.price.completion_pico_usd
        ):
            raise DemoError(f"the total of {line.model} is not tokens x price")
    table.add_section()
    table.add_row("", "", "", "", "", "", f"{bill.total_pico_usd:,}")
    console.print(table)
    console.print("    a LoRA token costs exactly 3/2 of a base token", style="dim")


if __name__ == "__main__":
    main()
