"""The embedded profile: registry, gateway and a worker for each base model, as child processes of this one."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import loramux
from loramux import errors
from loramux.cli.embedded import base_models, embedded_secrets
from loramux.cli.embedded.base_models import BaseModel
from loramux.cli.embedded.data_dir import DataDirInUseError, DataDirLock
from loramux.cli.embedded.supervision import (
    EmbeddedError,
    Event,
    OnEvent,
    Places,
    ServiceProcess,
    StoppedError,
)

HUGGING_FACE = "https://huggingface.co"

__all__ = ["BaseModel", "Embedded", "EmbeddedConfig", "EmbeddedError", "Event", "StoppedError"]

# What a service gets above its own drain time before it is killed.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class EmbeddedConfig:
    """What to start, and where everything of it is kept."""

    data_dir: Path
    bases: Sequence[BaseModel] = field(default_factory=lambda: (base_models.smollm2(),))
    """One worker each."""
    hub_endpoint: str = HUGGING_FACE
    host: str = "127.0.0.1"
    """Where the gateway listens; registry and workers stay on 127.0.0.1."""
    port: int = 0
    """The gateway's; 0 takes a free one, and keeps it over restarts of the gateway."""
    drain_seconds: float = 10.0
    """What running requests get to end when the services are stopped."""
    registry: Mapping[str, str] = field(default_factory=dict)
    """More of the registry's settings, by variable without its prefix: {"LOG_LEVEL": "debug"}."""
    gateway: Mapping[str, str] = field(default_factory=dict)
    """More of the gateway's."""
    worker: Mapping[str, str] = field(default_factory=dict)
    """More of every worker's: {"MAX_SEQUENCES": "8", "DTYPE": "float32"}."""


class Embedded:
    """Starts, supervises and stops the services. `with Embedded(config) as services:`, or `start` and `stop`.

    `on_event` is told everything that happens, from whichever thread it happens on. A service that dies is
    started again, with a growing pause; the gateway and the registry keep their ports.
    """

    def __init__(self, config: EmbeddedConfig, *, on_event: OnEvent = lambda _event: None) -> None:
        self.config = config
        self.hurry = threading.Event()
        """Set it to cut short the drain of a `stop` that is under way."""
        self._on_event = on_event
        self._services: dict[str, ServiceProcess] = {}
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = DataDirLock(config.data_dir)
        self._secrets: embedded_secrets.EmbeddedSecrets | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when every service is ready. Raises EmbeddedError, with nothing left running."""
        try:
            self._start()
        except DataDirInUseError as error:
            raise EmbeddedError(str(error)) from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Drain and stop the services, killing what hangs; idempotent. Nothing runs afterwards."""
        # The gateway first: its running requests need a worker, and workers report to the registry.
        workers = [name for name in self._services if name.startswith("worker")]
        for name in ("gateway", *workers, "registry"):
            service = self._services.get(name)
            if service is not None:
                service.stop(self.config.drain_seconds + _GRACE_SECONDS, self.hurry)
        self._lock.release()

    @property
    def target(self) -> str:
        """Where this machine reaches the gateway, host:port."""
        host, _, port = self._services["gateway"].address.rpartition(":")
        return f"127.0.0.1:{port}" if host == "0.0.0.0" else f"{host}:{port}"  # noqa: S104  # compared, not bound

    @property
    def addresses(self) -> Mapping[str, str]:
        """host:port by service: `registry`, `gateway`, `worker`; `worker-<base>` where there are several bases."""
        return {name: service.address for name, service in self._services.items()}

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids by service."""
        return {name: service.pid for name, service in self._services.items()}

    @property
    def operator_key(self) -> str:
        """For making accounts and granting credit."""
        return self._kept().operator_key

    def log(self, service: str) -> Path:
        """A service's log file."""
        return self.config.data_dir / "logs" / f"{service}.log"

    def key_of(self, account: str, *, credit_pico_usd: int) -> str:
        """A key of the account, which is made with this credit where there is none.

        The same key each time, for as long as it is good. Raises LoramuxError.
        """
        kept = self._kept()
        known = kept.api_keys.get(account)
        if known is not None and self._is_good(known):
            return known
        with loramux.SyncClient(self.target, kept.operator_key) as operator:
            with contextlib.suppress(errors.AlreadyExistsError):
                operator.create_account(account, credit_pico_usd=credit_pico_usd)
            secret = operator.create_key("made by loramux up", account=account).secret
        self._secrets = kept.with_api_key(account, secret)
        embedded_secrets.save(self.config.data_dir, self._secrets)
        return secret

    def _start(self) -> None:
        _check_installed()
        lock = self._lock.take(
            lambda: self._on_event(
                Event("progress", "embedded", "waiting for the services of a killed `loramux up` to end")
            )
        )
        self._secrets = embedded_secrets.load_or_make(self.config.data_dir)
        for folder in ("logs", "run"):
            (self.config.data_dir / folder).mkdir(exist_ok=True)
        for base in self.config.bases:
            if base.local_path == base_models.smollm2_folder():
                self._prepare_smollm2()
        bases_file = self.config.data_dir / "base_models.toml"
        bases_file.write_text(base_models.to_toml(self.config.bases))
        registry = self._add("registry", lock, self._registry_variables(bases_file), keeps_port=True)
        registry.spawn()
        registry.wait_until_ready()
        self._add("gateway", lock, self._gateway_variables(registry.address), keeps_port=True).spawn()
        for base in self.config.bases:
            name = "worker" if len(self.config.bases) == 1 else f"worker-{base.name}"
            self._add(name, lock, self._worker_variables(name, base, registry.address)).spawn()
        for name, service in self._services.items():
            if name != "registry":
                service.wait_until_ready()
        for service in self._services.values():
            service.supervise()

    def _add(
        self, name: str, lock: int, variables: Mapping[str, str], *, keeps_port: bool = False
    ) -> ServiceProcess:
        kind = name.partition("-")[0]
        prefix = f"LORAMUX_{kind.upper()}_"
        own = {
            "HOST": "127.0.0.1",
            "ADDRESS_FILE": str((self.config.data_dir / "run" / f"{name}.address").absolute()),
            "DRAIN_SECONDS": str(self.config.drain_seconds),
            **variables,
        }
        service = ServiceProcess(
            name,
            f"services.{kind}",
            {**os.environ, **{f"{prefix}{variable}": value for variable, value in own.items()}},
            Places(
                log=self.log(name),
                address_file=Path(own["ADDRESS_FILE"]),
                folder=self.config.data_dir / "run",
            ),
            on_event=self._on_event,
            port_variable=f"{prefix}PORT" if keeps_port else None,
            inherited=[lock],
        )
        if self.log(name).exists():
            self.log(name).replace(self.log(name).with_suffix(".log.1"))
        self._services[name] = service
        return service

    def _registry_variables(self, bases_file: Path) -> Mapping[str, str]:
        return {
            "DATABASE_URL": self._database("registry"),
            "BASE_MODELS_FILE": str(bases_file.absolute()),
            "HUB_ENDPOINT": self.config.hub_endpoint,
            "ENCRYPTION_KEY": self._kept().encryption_key,
            "GATEWAY_SECRET": self._kept().gateway_secret,
            "WORKER_SECRET": self._kept().worker_secret,
            "DISPATCH_SECRET": self._kept().dispatch_secret,
            **self.config.registry,
        }

    def _gateway_variables(self, registry: str) -> Mapping[str, str]:
        return {
            "HOST": self.config.host,
            "PORT": str(self.config.port),
            "REGISTRY_ADDRESS": registry,
            "DATABASE_URL": self._database("gateway"),
            "GATEWAY_SECRET": self._kept().gateway_secret,
            "DISPATCH_SECRET": self._kept().dispatch_secret,
            "OPERATOR_KEY_SHA256": self._kept().operator_key_sha256,
            **self.config.gateway,
        }

    def _worker_variables(self, name: str, base: BaseModel, registry: str) -> Mapping[str, str]:
        return {
            "REGISTRY_ADDRESS": registry,
            "BASE_MODEL": base.name,
            "WORKER_SECRET": self._kept().worker_secret,
            "DISPATCH_SECRET": self._kept().dispatch_secret,
            "CACHE_DIR": str((self.config.data_dir / "cache" / name).absolute()),
            "HUB_ENDPOINT": self.config.hub_endpoint,
            **self.config.worker,
        }

    def _database(self, name: str) -> str:
        return f"sqlite+aiosqlite:///{(self.config.data_dir / f'{name}.db').absolute()}"

    def _kept(self) -> embedded_secrets.EmbeddedSecrets:
        if self._secrets is None:
            raise RuntimeError("the services have not been started")
        return self._secrets

    def _is_good(self, key: str) -> bool:
        with loramux.SyncClient(self.target, key) as client:
            try:
                client.get_account()
            except (errors.UnauthenticatedError, errors.NotFoundError):
                return False
        return True

    def _prepare_smollm2(self) -> None:
        command = [sys.executable, "-P", "-m", "services.worker.base.prepare_base"]
        command += ["--out", str(base_models.smollm2_folder().absolute())]
        last = ""
        with subprocess.Popen(  # noqa: S603  # our own module
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                for line in process.stdout or ():
                    last = line.strip() or last
                    self._on_event(Event("progress", "base model", last))
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise EmbeddedError(f"the base model could not be prepared: {last}")
        self._on_event(Event("ready", "base model", str(base_models.smollm2_folder())))


def _check_installed() -> None:
    """A missing extra is said here, and not by three tracebacks in logs."""
    for module in ("services.registry", "services.gateway", "services.worker", "sqlalchemy", "torch"):
        if importlib.util.find_spec(module) is None:
            raise EmbeddedError(f"{module} is not installed here: pip install 'loramux-services[worker]'")
