"""What every service can be told. A service's own settings inherit from this."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, SettingsConfigDict


def secret_field(description: str) -> Any:  # Any: pydantic's own fields are
    """A secret that opens one door between the services; see `services.common.internal`."""
    return Field(description=f"{description} At least 32 characters.", min_length=32)


class ServiceSettings(BaseSettings):
    """Each field can be given as an option or as a variable; `--help` lists them all.

    Secrets are best given as variables: options show in the process list.
    """

    model_config = SettingsConfigDict(cli_kebab_case=True, cli_implicit_flags=True, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    advertise_host: str = Field("", description="Host that others reach this service by; empty means host.")
    address_file: Path | None = Field(
        None,
        description="File that receives host:port once the service is ready to serve.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="Least severe event to log.",
    )
    drain_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Seconds that running calls get to end after SIGTERM.",
    )

    @field_validator("*")
    @classmethod
    def _check_doors(cls, value: object, info: ValidationInfo) -> object:
        """One secret for two doors would open both to whoever has the one."""
        if isinstance(value, SecretStr) and value.get_secret_value():  # a Hub token may be empty
            for other, earlier in info.data.items():
                if isinstance(earlier, SecretStr) and earlier.get_secret_value() == value.get_secret_value():
                    raise ValueError(f"must differ from {other}")
        return value

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Read options, then variables. Prints what is wrong, by field and bound, and exits with 2."""
        try:
            options: CliSettingsSource[Self] = CliSettingsSource(
                cls,
                cli_parse_args=list(arguments),
                cli_prog_name=program,
            )
            return CliApp.run(cls, cli_args=[], cli_settings_source=options)
        except ValidationError as error:
            prefix = cls.model_config.get("env_prefix", "")
            for problem in error.errors(include_input=False, include_url=False):
                field = ".".join(str(part) for part in problem["loc"])
                option = field.replace("_", "-")
                print(  # noqa: T201 - before logging is set up
                    f"{program}: --{option} (or {prefix.upper()}{field.upper()}): {problem['msg']}",
                    file=sys.stderr,
                )
            raise SystemExit(2) from None
