"""What the gateway can be told."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings, secret_field


class GatewaySettings(ServiceSettings):
    """The gateway's own options; each can be given as a variable LORAMUX_GATEWAY_..."""

    model_config = SettingsConfigDict(env_prefix="LORAMUX_GATEWAY_")

    gateway_secret: SecretStr = secret_field("What gateways show the registry.")
    dispatch_secret: SecretStr = secret_field("What gateways and the registry show workers.")
    registry_address: str = Field(description="host:port of the registry.")
    database_url: str = Field(
        description="SQLAlchemy URL of the database of accounts, keys and ledger, "
        "such as sqlite+aiosqlite:////abs/path.db.",
    )
    operator_key_sha256: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256, in lower-case hex, of the operator's key (lmx_...).",
    )
    max_in_flight: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="Requests in flight of an account on one base model, where the account has no own bound.",
    )
    requests_per_minute: int = Field(
        0,
        ge=0,
        le=60_000_000,
        description="Requests per minute of an account on one base model; 0 sets no bound.",
    )
    tokens_per_minute: int = Field(
        0,
        ge=0,
        le=100_000_000_000,
        description="Tokens per minute of an account on one base model; 0 sets no bound.",
    )
