"""The engine's counts for Prometheus. Read when scraped: a request pays nothing for them."""

import asyncio
import threading
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from services.common.logs import get_logger
from services.worker.engine.interface import Engine, EngineStats

_log = get_logger(__name__)

_PREFIX = "loramux_worker"
_SCRAPE_SECONDS = 5.0

_GAUGES = {
    "running_sequences": ("running", "Sequences in the batch."),
    "waiting_sequences": ("waiting", "Sequences that wait for a place in it."),
    "kv_blocks": ("kv_blocks", "Blocks of keys and values that there are."),
    "kv_blocks_held": ("kv_blocks_held", "Blocks held by running sequences."),
    "kv_blocks_cached": ("kv_blocks_cached", "Blocks that a prefix may be found in, held ones among them."),
    "adapter_slots": ("adapter_slots", "Adapters that may be on the device at once; 0: as many as fit."),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens_total", "Prompt tokens of sequences that have begun."),
    "cached_tokens": ("cached_tokens_total", "Prompt tokens found in the prefix cache."),
    "completion_tokens": ("completion_tokens_total", "Tokens sampled."),
    "failed_steps": ("failed_steps_total", "Steps that ended their sequences with an error."),
    "preemptions": ("preemptions_total", "Sequences put back because blocks ran out."),
    "adapter_requests": ("adapter_requests_total", "Requests for an adapter on the device."),
    "adapter_hits": ("adapter_hits_total", "Of those, with the adapter resident or on its way."),
    "host_cache_hits": ("host_cache_hits_total", "Loads that did not touch the disk."),
}
# Name: count, sum, help. A summary without quantiles: rates of sum over rates of count are means over any span.
_SUMMARIES = {
    "queue_seconds": ("admitted_total", "queue_seconds_total", "From submission to the first step."),
    "step_seconds": ("steps_total", "step_seconds_total", "One step of the batch."),
    "step_sequences": ("steps_total", "step_sequences_total", "Sequences in a step."),
    "adapter_load_seconds": ("adapter_loads_total", "adapter_load_seconds_total", "Loading one adapter."),
}


class EngineCollector(Collector):
    """Asks the engine on its event loop, from the exporter's thread."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of the last step."""
        stats = asyncio.run_coroutine_threadsafe(self._stats(), self._loop).result(_SCRAPE_SECONDS)
        for name, (field, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=getattr(stats, field))
        for name, (field, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, value=getattr(stats, field))
        for name, (count, total, text) in _SUMMARIES.items():
            yield SummaryMetricFamily(
                f"{_PREFIX}_{name}", text, count_value=getattr(stats, count), sum_value=getattr(stats, total)
            )
        pins = GaugeMetricFamily(
            f"{_PREFIX}_adapter_pins", "Requests that hold a resident adapter.", labels=["digest"]
        )
        sizes = GaugeMetricFamily(
            f"{_PREFIX}_adapter_bytes", "Memory of a resident adapter.", labels=["digest"]
        )
        for digest, held in stats.adapters.items():
            pins.add_metric([digest], held)
            sizes.add_metric([digest], stats.adapter_bytes[digest])
        yield pins
        yield sizes

    async def _stats(self) -> EngineStats:
        return self._engine.stats()


class MetricsServer:
    """An HTTP server in a thread of its own."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    async def close(self) -> None:
        """Stop listening, and wait for the thread."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join)


def serve_metrics(address: str, engine: Engine) -> MetricsServer:
    """Serve an engine's metrics on host:port, from the running event loop. Raises OSError where it is taken."""
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(EngineCollector(engine, asyncio.get_running_loop()))
    server, thread = start_http_server(int(port), host, registry)
    _log.info("serving_metrics", address=f"{host}:{server.server_port}")
    return MetricsServer(server, thread)
