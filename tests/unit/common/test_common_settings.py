"""What a service refuses to start with."""

import base64
from collections.abc import Mapping

import pytest

from services.common.settings import ServiceSettings
from services.gateway.settings import GatewaySettings
from services.registry.settings import RegistrySettings
from services.worker.settings import WorkerSettings

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
KEY = base64.b64encode(bytes(32)).decode()
CASES: list[tuple[type[ServiceSettings], Mapping[str, str], str, str]] = [
    (GatewaySettings, {"GATEWAY_SECRET": A, "DISPATCH_SECRET": A}, "dispatch_secret", "gateway_secret"),
    (WorkerSettings, {"WORKER_SECRET": B, "DISPATCH_SECRET": B}, "dispatch_secret", "worker_secret"),
    (
        RegistrySettings,
        {"GATEWAY_SECRET": A, "WORKER_SECRET": A, "DISPATCH_SECRET": C, "ENCRYPTION_KEY": KEY},
        "worker_secret",
        "gateway_secret",
    ),
]


@pytest.mark.parametrize(("settings", "given", "field", "other"), CASES)
def test_one_secret_does_not_open_two_doors(
    settings: type[ServiceSettings],
    given: Mapping[str, str],
    field: str,
    other: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefix = str(settings.model_config["env_prefix"]).upper()
    for name, value in given.items():
        monkeypatch.setenv(prefix + name, value)
    with pytest.raises(SystemExit) as caught:
        settings.parse([], "service")
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert f"{prefix}{field.upper()}): Value error, must differ from {other}" in said
    assert not any(value in said for value in given.values())
