"""What a worker can be told."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings, secret_field

_LEAST_KV_TOKENS = 256


class WorkerSettings(ServiceSettings):
    """Options and variables (`LORAMUX_WORKER_*`) of `python -m services.worker`."""

    model_config = SettingsConfigDict(env_prefix="LORAMUX_WORKER_")

    worker_secret: SecretStr = secret_field("What workers show the registry.")
    dispatch_secret: SecretStr = secret_field("What gateways and the registry show workers.")
    registry_address: str = Field(description="host:port of the registry.", pattern=r"^\S+:\d+$")
    base_model: str = Field(description="Name, in the registry, of the base model to serve.", min_length=1)
    cache_dir: Path = Field(
        description="Folder for downloaded base models and adapters; this worker's alone.",
    )
    hub_endpoint: str = Field(
        "https://huggingface.co",
        pattern=r"^https?://",
        description="The Hub that base models and adapters come from.",
    )
    hub_token: SecretStr = Field(
        SecretStr(""),
        description="The operator's Hub token, for the base model only. Adapters never see it.",
    )
    cache_bytes: int = Field(
        10 * 1024**3,
        ge=1,
        description="Bytes of disk for adapters; the least recently used make room.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="What the model computes in; auto takes bfloat16 where the device, or what runs there, has it.",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of one step; 0 takes all cores.")
    kernels: Literal["auto", "off"] = Field(
        "auto",
        description="auto: native kernels where a C++ compiler and the model allow them; off: torch alone.",
    )
    adapter_slots: int = Field(
        0, ge=0, le=4096, description="Adapters in device memory at once; 0: as many as fit adapter_bytes."
    )
    adapter_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of device memory for adapters, never exceeded; 0 takes a part of what is left after the base "
        "is loaded, and says how much.",
    )
    host_cache_bytes: int = Field(
        2 * 1024**3,
        ge=0,
        description="Bytes of host memory for adapters that have left an accelerator; 0 keeps none.",
    )
    prefix_cache: bool = Field(
        True,
        description="Whether prompts that begin alike share keys and values, within one account and adapter.",
    )
    metrics_address: str = Field(
        "",
        pattern=r"^(\S+:\d+)?$",
        description="host:port to serve Prometheus metrics on; empty serves none.",
    )
    max_sequences: int = Field(64, ge=1, le=4096, description="Requests running at once; more wait.")
    max_waiting: int = Field(
        256,
        ge=0,
        le=100_000,
        description="Requests that wait for a place; more are refused with QUEUE_FULL.",
    )
    kv_tokens: int = Field(
        0,
        ge=0,
        description="Tokens whose keys and values fit, over all requests; 0 takes a part of what is left after the base "
        "is loaded, and says how much. With the prefix cache all of that memory comes into use in time.",
    )
    prefill_tokens: int = Field(512, ge=16, description="Prompt tokens that one step takes in at most.")

    @field_validator("kv_tokens")
    @classmethod
    def _enough_for_a_request(cls, value: int) -> int:
        if 0 < value < _LEAST_KV_TOKENS:
            raise ValueError(f"must be 0, or at least {_LEAST_KV_TOKENS}")
        return value
