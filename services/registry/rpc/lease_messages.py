"""What workers say of themselves: registrations and reports, from messages and to them."""

from loramux.fleet.v1 import fleet_pb2
from services.common.errors import InvalidFieldError
from services.registry.fleet.worker import (
    MAX_NAMES,
    MAX_RESIDENTS,
    Capabilities,
    Memory,
    Registration,
    Report,
)


def registration_of(message: fleet_pb2.WorkerRegistration) -> Registration:
    """What a worker says of itself once. Raises InvalidFieldError."""
    said = message.capabilities
    for field in ("adapter_variants", "target_modules"):
        _check_count(f"registration.capabilities.{field}", len(getattr(said, field)), MAX_NAMES)
    return Registration(
        worker_id=message.worker_id,
        address=message.address,
        base_model=message.base_model,
        base_commit=message.base_commit,
        max_sequences=message.max_sequences,
        adapter_slots=message.adapter_slots,
        capabilities=Capabilities(
            engine=said.engine,
            mode=said.mode,
            adapter_variants=tuple(said.adapter_variants),
            max_lora_rank=said.max_lora_rank,
            target_modules=tuple(said.target_modules),
            context_length=said.context_length,
            dtype=said.dtype,
        ),
    )


def report_of(message: fleet_pb2.WorkerReport) -> Report:
    """What a worker says of itself again and again. Raises InvalidFieldError."""
    _check_count("report.resident_digests", len(message.resident_digests), MAX_RESIDENTS)
    memory = message.memory
    return Report(
        resident_digests=frozenset(message.resident_digests),
        running_sequences=message.running_sequences,
        waiting_sequences=message.waiting_sequences,
        draining=message.draining,
        memory=Memory(memory.kv_blocks, memory.kv_blocks_held, memory.adapter_bytes)
        if message.HasField("memory")
        else None,
    )


def registration_message(registration: Registration) -> fleet_pb2.WorkerRegistration:
    """The inverse of `registration_of`."""
    able = registration.capabilities
    return fleet_pb2.WorkerRegistration(
        worker_id=registration.worker_id,
        address=registration.address,
        base_model=registration.base_model,
        base_commit=registration.base_commit,
        max_sequences=registration.max_sequences,
        adapter_slots=registration.adapter_slots,
        capabilities=fleet_pb2.Capabilities(
            engine=able.engine,
            mode=able.mode,
            adapter_variants=able.adapter_variants,
            max_lora_rank=able.max_lora_rank,
            target_modules=able.target_modules,
            context_length=able.context_length,
            dtype=able.dtype,
        ),
    )


def report_message(report: Report) -> fleet_pb2.WorkerReport:
    """The inverse of `report_of`."""
    held = report.memory
    memory = None
    if held is not None:
        memory = fleet_pb2.Memory(
            kv_blocks=held.kv_blocks, kv_blocks_held=held.kv_blocks_held, adapter_bytes=held.adapter_bytes
        )
    return fleet_pb2.WorkerReport(
        resident_digests=sorted(report.resident_digests),
        running_sequences=report.running_sequences,
        waiting_sequences=report.waiting_sequences,
        draining=report.draining,
        memory=memory,
    )


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidFieldError(field, f"{count} entries", f"at most {most} entries")
