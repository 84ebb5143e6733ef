"""What an engine is made of, in the order in which it comes to be: weights, a plan of the memory, a runner that is trusted."""

import math
from dataclasses import dataclass, replace

import torch

from services.common.logs import get_logger
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.memory_plan import MemoryPlan, bytes_per_token, free_bytes, plan_memory
from services.worker.engine.local.model.base_weights import BaseModel, load_base_model
from services.worker.engine.local.model.probe import ModelProbe, probe_model
from services.worker.engine.local.model.reference import Reference
from services.worker.engine.local.native.family import why_not_native
from services.worker.engine.local.native.native_runner import NativeRunner
from services.worker.engine.local.runner import Runner, make_runner, widens_bfloat16

_log = get_logger(__name__)


@dataclass(frozen=True)
class EngineParts:
    """A base model, and what computes it."""

    base: BaseModel
    probe: ModelProbe
    runner: Runner
    memory: MemoryPlan


def load_parts(config: EngineConfig) -> EngineParts:
    """All that takes long: weights, kernels where they are not compiled yet, and packing.

    The native runner is held against transformers' own forward; where they differ torch serves.
    """
    base, probe = _load_base(config)
    may_be_native = config.kernels == "auto" and why_not_native(base, config.block_size) is None
    # Taken now: a native runner packs the weights, and the model has them no more.
    reference = Reference.of(base.model, base.vocabulary) if may_be_native else None
    memory, weight_bytes = _plan(config, base, probe), _weight_bytes(base)
    runner = make_runner(
        base,
        probe,
        blocks=memory.kv_blocks,
        block_size=config.block_size,
        use_kernels=config.kernels == "auto",
        threads=config.resolved_threads(),
    )
    if reference is None or not isinstance(runner, NativeRunner):
        return EngineParts(base, probe, runner, memory)
    distance = _distance(reference, runner, config)
    if distance <= reference.most:
        _log.info("native_runner_agrees", distance=distance, most=reference.most)
        return EngineParts(base, probe, runner, memory)
    _log.warning("native_runner_differs", distance=distance, most=reference.most, serves="torch")
    dtype = config.dtype
    if weight_bytes > memory.left:
        dtype = (
            "float32" if base.dtype is torch.float32 else "bfloat16"
        )  # where torch's own choice may not fit
    del base, probe, runner  # before the weights are read once more
    return load_parts(replace(config, kernels="off", dtype=dtype))


def _distance(reference: Reference, runner: NativeRunner, config: EngineConfig) -> float:
    """NaN where the runner fails."""
    try:
        return reference.distance(runner.run, block_size=config.block_size)
    except Exception:  # whatever it is, torch may do without it
        _log.exception("native_runner_failed")
        return math.nan


def _weight_bytes(base: BaseModel) -> int:
    return sum(weight.nbytes for weight in base.model.parameters())


def _load_base(config: EngineConfig) -> tuple[BaseModel, ModelProbe]:
    base = load_base_model(
        config.base_folder,
        config.device,
        config.dtype,
        widens=lambda found: (
            config.kernels == "auto"
            and widens_bfloat16(found, device=config.device, block_size=config.block_size)
        ),
    )
    return base, probe_model(base.model)


def _plan(config: EngineConfig, base: BaseModel, probe: ModelProbe) -> MemoryPlan:
    """What keys, values and adapters may take; says it, and warns where an operator has asked for more than there is."""
    left = free_bytes(base.device)
    if base.device.type == "cpu":
        # They are pages of the file yet, which count as free; packed, or read, they are not.
        left -= _weight_bytes(base)
    memory = plan_memory(
        config,
        left=max(0, left),
        token_bytes=bytes_per_token(probe.kv_shapes.values(), base.dtype),
        context_length=base.context_length,
    )
    kv_bytes = memory.kv_bytes(config.block_size)
    _log.info(
        "memory_planned",
        left_bytes=memory.left,
        kv_tokens=memory.kv_blocks * config.block_size,
        kv_bytes=kv_bytes,
        adapter_bytes=memory.adapter_bytes,
    )
    if kv_bytes + memory.adapter_bytes > memory.left:
        _log.warning(
            "memory_may_run_out", asked_bytes=kv_bytes + memory.adapter_bytes, left_bytes=memory.left
        )
    return memory
