"""What the native kernels cost, beside their torch forms and what the memory allows.

`.venv/bin/python -m bench.kernels [lora] [attention] [linear] [call] [--threads N] [--rounds N]`

All candidates of a line take turns, and each shows its least time. Shapes are SmolLM2-135M's: hidden 576, keys and
values 192, intermediate 1536, 30 layers; adapters have rank 16 on all seven projections.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.native.kernels import (
    Kernels,
    LoraRuns,
    PackedAdapter,
    PackedCache,
    PackedLinear,
    PagedAttention,
    SequenceBatch,
    Site,
    load_kernels,
)

LAYERS = 30
RANK = 16
HEADS, KV_HEADS, HEAD = 9, 3, 64
SITES = ((576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,)))
VOCABULARY = 49152
BFLOAT16 = torch.bfloat16


def fastest(candidates: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The least seconds of each candidate, which take turns."""
    best = [float("inf")] * len(candidates)
    for _ in range(rounds):
        for place, candidate in enumerate(candidates):
            start = time.perf_counter()
            candidate()
            best[place] = min(best[place], time.perf_counter() - start)
    return best


def read_bandwidth(rounds: int) -> float:
    """Bytes a second that summing a large tensor reads."""
    much = torch.ones(64 * 1024 * 1024, dtype=torch.int64)
    return much.nbytes / fastest([lambda: much.sum()], rounds)[0]


def model_sites() -> list[Site]:
    return [Site(4 * layer + place, *SITES[place]) for layer in range(LAYERS) for place in range(len(SITES))]


def make_adapter(
    kernels: Kernels, sites: Sequence[Site]
) -> tuple[PackedAdapter, dict[tuple[int, int], Delta]]:
    deltas = {
        (site.index, place): Delta(
            torch.randn(RANK, site.inputs).to(BFLOAT16), torch.randn(outputs, RANK).to(BFLOAT16) * 0.01
        )
        for site in sites
        for place, outputs in enumerate(site.outputs)
    }
    return PackedAdapter(kernels, sites, deltas), deltas


def bench_lora(kernels: Kernels, bandwidth: float, rounds: int) -> None:
    """Time that a decode step gains from adapters: all sites of all layers, with them less without."""
    sites = model_sites()
    adapters = [make_adapter(kernels, sites) for _ in range(32)]
    linears = [
        PackedLinear(kernels, site, [torch.randn(n, site.inputs).to(BFLOAT16) for n in site.outputs])
        for site in sites
    ]
    print("\nLoRA, 32 rows, 30 layers, ms a step")
    print(f"{'adapters x rows':>16} {'kernel':>8} {'masked':>8} {'bmm':>8} {'floor':>8} {'kernel/floor':>13}")
    for count, rows in ((1, 32), (8, 4), (16, 2), (32, 1)):
        inputs = {k: torch.randn(32, k).to(BFLOAT16) for k in (576, 1536)}
        outputs = {site.width: torch.zeros(32, site.width, dtype=BFLOAT16) for site in sites}
        runs = LoraRuns([(packed, rows) for packed, _ in adapters[:count]])

        def native(runs: LoraRuns | None = runs) -> None:
            for site, linear in zip(sites, linears, strict=True):
                linear(inputs[site.inputs], out=outputs[site.width], runs=runs)

        stacks = [_stack([deltas for _, deltas in adapters[:count]], site) for site in sites]
        mask = torch.block_diag(*[torch.ones(rows, RANK)] * count).to(BFLOAT16)

        def masked() -> None:
            for site, stack in zip(sites, stacks, strict=True):
                x, y = inputs[site.inputs], outputs[site.width]
                for offset, width, a, b in stack:
                    shrunk = (x @ a.flatten(0, 1).T) * mask
                    y[:, offset : offset + width].addmm_(shrunk, b.permute(0, 2, 1).flatten(0, 1))

        def batched() -> None:
            for site, stack in zip(sites, stacks, strict=True):
                x = inputs[site.inputs].view(count, rows, site.inputs)
                y = outputs[site.width].view(count, rows, site.width)
                for offset, width, a, b in stack:
                    y[..., offset : offset + width] += torch.bmm(
                        torch.bmm(x, a.transpose(1, 2)), b.transpose(1, 2)
                    )

        both, alone, *torch_forms = (
            1e3 * one for one in fastest([native, lambda: native(None), masked, batched], rounds)
        )
        times = [both - alone, *torch_forms]
        floor = 1e3 * count * adapters[0][0].nbytes / bandwidth
        row = " ".join(f"{one:8.2f}" for one in (*times, floor))
        print(f"{f'{count} x {rows}':>16} {row} {times[0] / floor:13.2f}")


def _stack(
    deltas: Sequence[dict[tuple[int, int], Delta]], site: Site
) -> list[tuple[int, int, Tensor, Tensor]]:
    """Offset, width, A [adapters, rank, in], B [adapters, out, rank] of each projection."""
    stack = []
    for place, (offset, width) in enumerate(zip(site.offsets, site.outputs, strict=True)):
        pairs = [one[site.index, place] for one in deltas]
        a = torch.stack([pair.a for pair in pairs if pair.a is not None])
        b = torch.stack([pair.b for pair in pairs if pair.b is not None])
        stack.append((offset, width, a, b))
    return stack


def bench_attention(kernels: Kernels, bandwidth: float, rounds: int) -> None:
    """Decode attention of 30 layers over blocks, and a prompt's chunks."""
    block_size = 16
    print("\nAttention, 30 layers, ms a step")
    print(f"{'sequences':>12} {'context':>8} {'kernel':>8} {'SDPA':>8} {'floor':>8} {'kernel/floor':>13}")
    for count, context in ((32, 64), (32, 128), (32, 256), (32, 512), (32, 2048), (1, 128), (1, 2048)):
        held = -(-context // block_size)
        layers = min(LAYERS, max(2, 2**30 // (count * context * 768)))
        blocks = torch.randperm(count * held).view(count, held).tolist()
        batch = SequenceBatch([1] * count, [context] * count, blocks, block_size=block_size)
        caches = [
            PackedCache(
                kernels,
                blocks=count * held,
                block_size=block_size,
                kv_heads=KV_HEADS,
                key_dim=HEAD,
                value_dim=HEAD,
            )
            for _ in range(layers)
        ]
        for cache in caches:
            cache.keys.normal_()
            cache.values.normal_()
        attends = [PagedAttention(cache, HEADS, scale=HEAD**-0.5) for cache in caches]
        q = torch.randn(count, HEADS, HEAD).to(BFLOAT16)
        dense = [torch.randn(2, count, KV_HEADS, context, HEAD).to(BFLOAT16) for _ in range(layers)]

        def native() -> None:
            for attend in attends:
                attend(q, batch)

        def sdpa() -> None:
            grouped = q.view(count, KV_HEADS, HEADS // KV_HEADS, HEAD)
            for keys, values in dense:
                functional.scaled_dot_product_attention(grouped, keys, values)

        times = [1e3 * LAYERS / layers * one for one in fastest([native, sdpa], rounds)]
        floor = 1e3 * LAYERS * count * context * KV_HEADS * HEAD * 4 / bandwidth
        row = " ".join(f"{one:8.2f}" for one in (*times, floor))
        print(f"{count:12} {context:8} {row} {times[0] / floor:13.2f}")
    _bench_prefill(kernels, rounds)


def _bench_prefill(kernels: Kernels, rounds: int) -> None:
    print(f"{'prompt rows':>12} {'context':>8} {'kernel':>8} {'SDPA':>8} {'GFLOP/s':>8}")
    for rows, context in ((512, 512), (512, 2048)):
        cache = PackedCache(
            kernels, blocks=context // 16, block_size=16, kv_heads=KV_HEADS, key_dim=HEAD, value_dim=HEAD
        )
        cache.keys.normal_()
        cache.values.normal_()
        attend = PagedAttention(cache, HEADS, scale=HEAD**-0.5)
        batch = SequenceBatch([rows], [context], [list(range(context // 16))], block_size=16)
        q = torch.randn(rows, HEADS, HEAD).to(BFLOAT16)
        keys, values = torch.randn(2, 1, HEADS, context, HEAD).to(BFLOAT16)
        mask = torch.ones(rows, context, dtype=torch.bool).tril(context - rows)
        times = fastest(
            [
                lambda: attend(q, batch),
                lambda: functional.scaled_dot_product_attention(
                    q.transpose(0, 1)[None], keys, values, attn_mask=mask
                ),
            ],
            rounds,
        )
        work = 4 * HEADS * HEAD * float(mask.sum())
        print(
            f"{rows:12} {context:8} {times[0] * 3e4:8.2f} {times[1] * 3e4:8.2f} {work / times[0] / 1e9:8.0f}"
        )


def bench_linear(kernels: Kernels, bandwidth: float, rounds: int) -> None:
    """All linear layers and the output layer of one step."""
    sites = [*model_sites(), Site(4 * LAYERS, 576, (VOCABULARY,))]
    weights = [torch.randn(site.width, site.inputs).to(BFLOAT16) for site in sites]
    ours = [
        PackedLinear(kernels, site, list(w.split(site.outputs)))
        for site, w in zip(sites, weights, strict=True)
    ]
    packed = [torch.ops.mkldnn._reorder_linear_weight(weight, 32) for weight in weights]
    print("\nAll linear layers, ms a step (the output layer included)")
    print(f"{'rows':>6} {'kernel':>8} {'oneDNN':>8} {'F.linear':>9} {'floor':>8} {'oneDNN/kernel':>14}")
    for rows in (1, 8, 32, 64, 256):
        inputs = {k: torch.randn(rows, k).to(BFLOAT16) for k in (576, 1536)}
        times = [
            1e3 * one
            for one in fastest(
                [
                    lambda: [linear(inputs[site.inputs]) for site, linear in zip(sites, ours, strict=True)],
                    lambda: [
                        torch.ops.mkldnn._linear_pointwise(inputs[site.inputs], one, None, "none", [], "")
                        for site, one in zip(sites, packed, strict=True)
                    ],
                    lambda: [
                        functional.linear(inputs[site.inputs], one)
                        for site, one in zip(sites, weights, strict=True)
                    ],
                ],
                rounds,
            )
        ]
        floor = 1e3 * sum(weight.nbytes for weight in weights) / bandwidth
        print(
            f"{rows:6} {times[0]:8.2f} {times[1]:8.2f} {times[2]:9.2f} {floor:8.2f} {times[1] / times[0]:14.2f}"
        )


def bench_call(kernels: Kernels, _bandwidth: float, rounds: int) -> None:
    """What a call costs before it computes anything."""
    site = Site(0, 16, (16,))
    linear = PackedLinear(kernels, site, [torch.zeros(16, 16, dtype=BFLOAT16)])
    x, out = torch.zeros(1, 16, dtype=BFLOAT16), torch.zeros(1, 16, dtype=BFLOAT16)
    many = 1000

    def calls() -> None:
        for _ in range(many):
            linear(x, out=out)

    print(f"\nA call of the smallest linear layer: {1e6 * fastest([calls], rounds)[0] / many:.1f} us")


BENCHES = {"linear": bench_linear, "lora": bench_lora, "attention": bench_attention, "call": bench_call}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benches", nargs="*", choices=[*BENCHES, []], help="which; all unless given")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)  # the kernels take as many
    kernels = load_kernels(BFLOAT16)
    if kernels is None:
        raise SystemExit("there are no kernels without a C++ compiler")
    bandwidth = read_bandwidth(options.rounds)
    print(
        f"{kernels.isa.name}, {kernels.mode.name}, {options.threads} threads, reads {bandwidth / 1e9:.1f} GB/s"
    )
    with torch.inference_mode():
        for name in options.benches or BENCHES:
            BENCHES[name](kernels, bandwidth, options.rounds)


if __name__ == "__main__":
    main()
