"""`loramux up`."""

# ruff: noqa: PLC0415  # starting services needs more than `loramux --help` should import
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loramux import profile
from loramux.cli import money
from loramux.cli.embedded import base_models
from loramux.cli.embedded.up_display import Display

if TYPE_CHECKING:
    pass


def up(
    *,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help=f"A Hub id, owner/name[@revision]; else {base_models.SMOLLM2}, which needs no Hub.",
        ),
    ] = None,
    hub_endpoint: Annotated[
        str, typer.Option(envvar="LORAMUX_HUB_ENDPOINT", help="Where adapters are fetched from.")
    ] = "https://huggingface.co",
    data_dir: Annotated[
        Path | None, typer.Option(help="Databases, downloads, logs, secrets; else $LORAMUX_HOME/embedded.")
    ] = None,
    account: Annotated[str, typer.Option(help="The account that is made and whose key is shown.")] = "local",
    credit: Annotated[str, typer.Option(metavar="USD", help="Its first credit.")] = "10",
    host: Annotated[str, typer.Option(help="Where the gateway listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0 takes a free one.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; else the worker's default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    max_sequences: Annotated[int | None, typer.Option(min=1, help="Requests that run at once.")] = None,
) -> None:
    """Start registry, gateway and worker on this machine, and stop them on Ctrl-C.

    Other `loramux` commands on this machine find them by themselves.
    """
    from loramux.cli.embedded.embedded_services import Embedded, EmbeddedConfig

    starting_credit = money.parse_usd(credit)
    worker = {"DEVICE": device, "DTYPE": dtype, "MAX_SEQUENCES": max_sequences}
    config = EmbeddedConfig(
        data_dir=(data_dir or profile.home() / "embedded").absolute(),
        bases=[base_models.chosen(base)],
        hub_endpoint=hub_endpoint,
        host=host,
        port=port,
        worker={name: str(value) for name, value in worker.items() if value is not None},
    )
    # kill and a closed terminal stop the services as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    display = Display()
    services = Embedded(config, on_event=display.event)
    running: profile.Profile | None = None
    try:
        with display.starting():
            services.start()
            key = services.key_of(account, credit_pico_usd=starting_credit)
        running = profile.Profile(
            target=services.target,
            api_key=key,
            operator_key=services.operator_key,
            hub_endpoint=hub_endpoint,
        )
        profile.save(running)
        display.running(running, account=account, logs=config.data_dir / "logs")
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        # A second Ctrl-C does not wait for running requests.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: services.hurry.set())
        if running is not None:
            profile.forget(running)
        services.stop()
