"""What the registry can be told."""

import base64
import binascii
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings, secret_field
from services.registry.deployments.sealing import KEY_BYTES


class RegistrySettings(ServiceSettings):
    """Options and variables (`LORAMUX_REGISTRY_*`) of `python -m services.registry`."""

    model_config = SettingsConfigDict(env_prefix="LORAMUX_REGISTRY_")

    database_url: str = Field(
        description="SQLAlchemy URL of the registry's own database, such as sqlite+aiosqlite:////var/lib/loramux/registry.db.",
    )
    base_models_file: Path = Field(description="TOML file that lists the base models.")
    hub_endpoint: str = Field(
        "https://huggingface.co",
        pattern=r"^https?://",
        description="The Hub that base models and adapters come from.",
    )
    hub_patience_seconds: float = Field(
        15.0,
        ge=0,
        le=600,
        description="Seconds that a check goes on asking while the Hub is unreachable, before it fails.",
    )
    hub_token: SecretStr = Field(
        SecretStr(""),
        description="The operator's Hub token, for base models only. Adapters never see it.",
    )
    gateway_secret: SecretStr = secret_field(
        "What gateways show: opens deployments and routes.",
    )
    worker_secret: SecretStr = secret_field(
        "What workers show: opens leases and the Hub tokens of what they download, and nothing of the gateways'.",
    )
    dispatch_secret: SecretStr = secret_field("What the registry shows workers.")
    encryption_key: SecretStr = Field(
        description=f"Base64 of {KEY_BYTES} random bytes: seals users' Hub tokens in the database.",
    )
    max_adapter_bytes: int = Field(
        2 * 1024**3,
        ge=1,
        description="Largest adapter that is admitted, both files together, in bytes.",
    )

    @field_validator("encryption_key")
    @classmethod
    def _check_key(cls, value: SecretStr) -> SecretStr:
        try:
            length = len(base64.b64decode(value.get_secret_value(), validate=True))
        except binascii.Error:
            raise ValueError("it must be base64") from None
        if length != KEY_BYTES:
            raise ValueError(f"it must be base64 of {KEY_BYTES} bytes, and is of {length}")
        return value

    def encryption_key_bytes(self) -> bytes:
        """The key itself."""
        return base64.b64decode(self.encryption_key.get_secret_value())
