"""Adapters that leave the device come back from host memory, within its bound."""

from pathlib import Path

import torch

from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.adapters.embedding import EmbeddingChange
from services.worker.engine.local.adapters.host_cache import HostCache
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.adapters.token_rows import TokenRows

CPU = torch.device("cpu")
BYTES = 400


class Disk:
    def __init__(self) -> None:
        self.reads: list[str] = []

    def load(self, files: AdapterFiles) -> LoadedAdapter:
        self.reads.append(files.digest)
        return LoadedAdapter(files.digest, AdapterWeights({"m": Delta(bias=torch.ones(BYTES // 4))}))


def files(digest: str) -> AdapterFiles:
    return AdapterFiles(digest, Path())


def test_what_was_kept_is_not_read_again_and_is_the_same() -> None:
    disk = Disk()
    cache = HostCache(disk.load, CPU, max_bytes=10 * BYTES)
    first = cache.load(files("a"))
    cache.keep(first)
    again = cache.load(files("a"))
    assert again.weights.deltas["m"].bias is first.weights.deltas["m"].bias
    assert (disk.reads, cache.hits, cache.nbytes) == (["a"], 1, 0)
    cache.load(files("a"))  # it is on the device now, and no longer here
    assert disk.reads == ["a", "a"]


def test_the_first_to_have_left_makes_room() -> None:
    disk = Disk()
    cache = HostCache(disk.load, CPU, max_bytes=2 * BYTES)
    for digest in "abc":
        cache.keep(cache.load(files(digest)))
    assert cache.nbytes == 2 * BYTES
    for digest in "cba":
        cache.load(files(digest))
    assert disk.reads == ["a", "b", "c", "a"]


def test_one_that_is_larger_than_all_the_room_is_not_kept() -> None:
    disk = Disk()
    cache = HostCache(disk.load, CPU, max_bytes=BYTES - 1)
    cache.keep(cache.load(files("a")))
    assert cache.nbytes == 0


def test_weights_move_between_devices_whole() -> None:
    rows = TokenRows(torch.tensor([1]), torch.ones(1, 2))
    weights = AdapterWeights(
        {"m": Delta(torch.ones(1, 2), torch.ones(2, 1), multiplier=torch.ones(2), bias=torch.ones(2))},
        {"norm": {"weight": torch.ones(2)}},
        EmbeddingChange(torch.ones(2, 2), rows, torch.ones(2, 1), torch.ones(1, 2), torch.ones(2)),
        rows,
    )
    moved = LoadedAdapter("d", weights).to(torch.device("meta"))
    assert moved.nbytes == weights.nbytes > 0
    delta, embedding, output = moved.weights.deltas["m"], moved.weights.embedding, moved.weights.output_rows
    assert embedding is not None
    assert embedding.rows is not None
    assert output is not None
    tensors = [
        delta.a, delta.b, delta.multiplier, delta.bias, moved.weights.replaced["norm"]["weight"], embedding.table,
        embedding.rows.token_ids, embedding.rows.rows, embedding.a, embedding.b, embedding.multiplier, output.rows,
    ]  # fmt: skip
    assert {None if one is None else one.device.type for one in tensors} == {"meta"}
