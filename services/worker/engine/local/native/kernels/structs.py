"""The structs of csrc/types.h, field by field. Every field is eight bytes wide; pointers are plain integers."""

import ctypes
import typing

MOST_SEGMENTS = 3
"""Projections of one site."""

ALL: list[type[ctypes.Structure]] = []
"""Every struct of this module."""

_Struct = typing.TypeVar("_Struct", bound=type[ctypes.Structure])


def _mirrored(struct: _Struct) -> _Struct:
    """Make the annotations of a class the fields of a C struct; an array has MOST_SEGMENTS elements."""
    fields: list[tuple[str, type]] = []
    for name, hint in typing.get_type_hints(struct).items():
        if name.startswith("_"):
            continue
        if typing.get_origin(hint) is ctypes.Array:
            fields.append((name, typing.get_args(hint)[0] * MOST_SEGMENTS))
        else:
            fields.append((name, {int: ctypes.c_int64, float: ctypes.c_double}.get(hint, hint)))
    struct._fields_ = fields
    ALL.append(struct)
    return struct


@_mirrored
class Segment(ctypes.Structure):
    weight: int
    bias: int
    n: int
    offset: int


@_mirrored
class Site(ctypes.Structure):
    k: int
    count: int
    segment: ctypes.Array[Segment]


@_mirrored
class AdapterPart(ctypes.Structure):
    b: int
    rank: int
    column: int
    multiplier: int
    bias: int


@_mirrored
class AdapterSite(ctypes.Structure):
    a: int
    scales: int
    width: int
    touched: int
    part: ctypes.Array[AdapterPart]


@_mirrored
class LayerNorms(ctypes.Structure):
    input_norm: int
    after_attention: int
    mlp_norm: int
    after_mlp: int
    q_norm: int
    k_norm: int


@_mirrored
class Run(ctypes.Structure):
    row: int
    rows: int
    sites: int
    norms: int


@_mirrored
class Runs(ctypes.Structure):
    run: int
    count: int
    site: int
    width: int


@_mirrored
class Pack(ctypes.Structure):
    source: int
    row_stride: int
    column_stride: int
    n: int
    k: int
    to: int
    to_column: int


@_mirrored
class Linear(ctypes.Structure):
    site: int
    x: int
    x_stride: int
    y: int
    y_stride: int
    rows: int
    activation: int
    softcap: float
    runs: Runs
    threads: int


@_mirrored
class Cache(ctypes.Structure):
    keys: int
    values: int
    block_size: int
    kv_heads: int
    key_dim: int
    value_dim: int


@_mirrored
class Sequences(ctypes.Structure):
    first_row: int
    context: int
    first_block: int
    blocks: int
    count: int


@_mirrored
class Attention(ctypes.Structure):
    cache: Cache
    sequences: Sequences
    q: int
    q_stride: int
    q_head: int
    out: int
    out_stride: int
    heads: int
    window: int
    scale: float
    softcap: float
    threads: int


@_mirrored
class Rope(ctypes.Structure):
    cache: Cache
    q: int
    q_stride: int
    q_head: int
    k: int
    k_stride: int
    k_head: int
    v: int
    v_stride: int
    v_head: int
    cos: int
    sin: int
    slots: int
    q_norm: int
    k_norm: int
    eps: float
    rows: int
    heads: int
    rotary: int
    threads: int


@_mirrored
class Norm(ctypes.Structure):
    x: int
    x_stride: int
    residual: int
    residual_stride: int
    y: int
    y_stride: int
    weight: int
    eps: float
    rows: int
    n: int
    threads: int


@_mirrored
class Layer(ctypes.Structure):
    input_norm: Norm
    qkv: Linear
    rope: Rope
    attention: Attention
    output: Linear
    after_attention: Norm
    mlp_norm: Norm
    gate_up: Linear
    down: Linear
    after_mlp: Norm
    turns: int


@_mirrored
class Turns(ctypes.Structure):
    cos: int
    sin: int


@_mirrored
class Forward(ctypes.Structure):
    layers: int
    count: int
    last_norm: Norm
    rows: int
    residual: int
    hidden: int
    normed: int
    added: int
    qkv: int
    qkv_width: int
    attended: int
    attended_width: int
    gated: int
    gated_width: int
    turns: int
    slots: int
    sequences: Sequences
    run: int
    run_count: int
    run_width: int
    threads: int


@_mirrored
class ChooseRow(ctypes.Structure):
    draw: float
    temperature: float
    top_p: float
    min_p: float
    repetition: float
    presence: float
    frequency: float
    top_k: int
    greedy: int
    logprobs: int
    seen_token: int
    seen_count: int
    seen: int
    biased_token: int
    bias: int
    biased: int


@_mirrored
class Choose(ctypes.Structure):
    x: int
    x_stride: int
    n: int
    rows: int
    row: int
    token: int
    logprob: int
    top_token: int
    top_logprob: int
    top_stride: int
    threads: int
