"""The modules of a base model, read off the names and shapes in its weight files.

What a module is shows in its name and its number of dimensions. Names are those that the module has once the
model is loaded, for adapters call it by that name.
"""

from collections.abc import Mapping
from dataclasses import replace

from services.registry.bases.base_model import BaseModule, ModuleKind

_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
"""What the families call their input embedding, by the last part of its path."""
_OTHER_TABLES = ("wpe", "embed_positions", "embed_tokens_per_layer")
"""Embeddings of something else than the token at a position."""
_OUTPUT = "lm_head"

_TIED_BY_DEFAULT = ("gpt2", "gemma", "gemma2", "gemma3", "gemma3_text")
"""Families whose config has tie_word_embeddings true where the file does not say."""

_MATRIX, _VECTOR = 2, 1


def read_modules(
    shapes: Mapping[str, tuple[int, ...]], model_type: object, *, tied: bool | None = None
) -> dict[str, BaseModule]:
    """Modules by path, from the shapes of all tensors by name and `model_type` of the base's config.json.

    `tied` is its tie_word_embeddings: where it is true, or its family's default is, the output layer's weight is the
    input embedding's, also in a file that repeats it. A base that holds no output layer has such a one too.
    """
    weights: dict[str, tuple[int, ...]] = {}
    biases: dict[str, int] = {}
    for name, shape in shapes.items():
        path, _, part = _loaded_name(name, model_type).rpartition(".")
        if part == "weight":
            weights[path] = shape
        elif part == "bias" and len(shape) == _VECTOR:  # older GPT-2 files call their causal mask a bias
            biases[path] = shape[0]
    tables = [path for path, shape in weights.items() if _is(path, shape, _EMBEDDINGS)]
    embedding = min(tables, key=len, default=None)
    modules: dict[str, BaseModule] = {}
    for path in {**weights, **biases}:
        shape = weights.get(path, ())
        kind = ModuleKind.EMBEDDING if path == embedding else _kind(path, shape)
        if kind is ModuleKind.LINEAR and _is_conv1d(path, model_type):
            shape = shape[::-1]
        modules[path] = BaseModule(kind, shape, biases.get(path))
    is_tied = model_type in _TIED_BY_DEFAULT if tied is None else tied
    if embedding is not None:
        outputs = [path for path, one in modules.items() if one.kind is ModuleKind.OUTPUT]
        if not outputs:
            modules[_OUTPUT] = BaseModule(
                ModuleKind.OUTPUT, weights[embedding], biases.get(_OUTPUT), tied=True
            )
        for path in outputs:
            modules[path] = replace(modules[path], tied=is_tied)
    return modules


def _kind(path: str, shape: tuple[int, ...]) -> ModuleKind:
    if _is(path, shape, (_OUTPUT,)):
        return ModuleKind.OUTPUT
    if len(shape) == _MATRIX and not _is(path, shape, _EMBEDDINGS + _OTHER_TABLES):
        return ModuleKind.LINEAR
    return ModuleKind.NORM if len(shape) == _VECTOR else ModuleKind.OTHER


def _is(path: str, shape: tuple[int, ...], names: tuple[str, ...]) -> bool:
    return len(shape) == _MATRIX and path.rpartition(".")[2] in names


def _loaded_name(name: str, model_type: object) -> str:
    """What transformers 5 calls a tensor of the file once it has loaded it."""
    if model_type == "gpt2" and not name.startswith(("transformer.", f"{_OUTPUT}.")):
        return (
            f"transformer.{name}"  # the Hub's GPT-2 was saved without its output layer, so without the prefix
        )
    if model_type == "gpt_neox" and name.startswith("embed_out."):
        return f"{_OUTPUT}.{name.removeprefix('embed_out.')}"
    return name


def _is_conv1d(path: str, model_type: object) -> bool:
    """Whether a matrix is stored [in, out], as transformers' Conv1D has it; of the families here, GPT-2's alone."""
    return model_type == "gpt2" and path.startswith("transformer.h.")
