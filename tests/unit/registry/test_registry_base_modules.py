"""What the names and shapes in a base's weight files say about its modules."""

import pytest

from services.registry.bases.base_model import BaseModule, ModuleKind
from services.registry.bases.base_modules import read_modules

LINEAR, EMBEDDING, OUTPUT = ModuleKind.LINEAR, ModuleKind.EMBEDDING, ModuleKind.OUTPUT
NORM, OTHER = ModuleKind.NORM, ModuleKind.OTHER


def test_each_module_has_its_kind_its_shape_and_its_bias() -> None:
    shapes = {
        "model.embed_tokens.weight": (100, 8),
        "model.layers.0.self_attn.q_proj.weight": (16, 8),
        "model.layers.0.self_attn.q_proj.bias": (16,),
        "model.layers.0.input_layernorm.weight": (8,),
        "model.layers.0.conv.conv.weight": (8, 1, 3),
        "lm_head.weight": (100, 8),
        "model.rotary.inv_freq": (4,),
    }
    assert read_modules(shapes, "llama") == {
        "model.embed_tokens": BaseModule(EMBEDDING, (100, 8)),
        "model.layers.0.self_attn.q_proj": BaseModule(LINEAR, (16, 8), 16),
        "model.layers.0.input_layernorm": BaseModule(NORM, (8,)),
        "model.layers.0.conv.conv": BaseModule(OTHER, (8, 1, 3)),
        "lm_head": BaseModule(OUTPUT, (100, 8)),
    }


def test_a_base_that_holds_no_output_layer_has_a_tied_one() -> None:
    modules = read_modules({"model.embed_tokens.weight": (100, 8)}, "qwen2")
    assert modules["lm_head"] == BaseModule(OUTPUT, (100, 8), tied=True)


def test_a_base_without_a_known_embedding_has_no_output_layer_either() -> None:
    assert read_modules({"model.norm.weight": (8,)}, None) == {"model.norm": BaseModule(NORM, (8,))}


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt_2_stores_its_linears_transposed_and_its_names_with_or_without_a_prefix(prefix: str) -> None:
    shapes = {
        f"{prefix}wte.weight": (100, 8),
        f"{prefix}wpe.weight": (64, 8),
        f"{prefix}h.0.attn.c_attn.weight": (8, 24),
        f"{prefix}h.0.attn.c_attn.bias": (24,),
        f"{prefix}h.0.attn.bias": (1, 1, 64, 64),
        f"{prefix}ln_f.weight": (8,),
        f"{prefix}ln_f.bias": (8,),
        "lm_head.weight": (100, 8),
    }
    assert read_modules(shapes, "gpt2") == {
        "transformer.wte": BaseModule(EMBEDDING, (100, 8)),
        "transformer.wpe": BaseModule(OTHER, (64, 8)),
        "transformer.h.0.attn.c_attn": BaseModule(LINEAR, (24, 8), 24),
        "transformer.ln_f": BaseModule(NORM, (8,), 8),
        "lm_head": BaseModule(OUTPUT, (100, 8), tied=True),
    }


@pytest.mark.parametrize(
    ("model_type", "said", "tied"),
    [("llama", True, True), ("llama", None, False), ("llama", False, False), ("gemma", None, True)],
)
def test_a_file_that_repeats_the_embedding_as_its_output_layer_is_tied_where_the_config_says_so(
    model_type: str, said: bool | None, tied: bool
) -> None:
    shapes = {"model.embed_tokens.weight": (100, 8), "lm_head.weight": (100, 8)}
    assert read_modules(shapes, model_type, tied=said)["lm_head"] == BaseModule(OUTPUT, (100, 8), tied=tied)


def test_the_output_layer_of_gpt_neox_goes_by_the_name_it_has_once_loaded() -> None:
    shapes = {"gpt_neox.embed_in.weight": (100, 8), "embed_out.weight": (100, 8)}
    assert read_modules(shapes, "gpt_neox") == {
        "gpt_neox.embed_in": BaseModule(EMBEDDING, (100, 8)),
        "lm_head": BaseModule(OUTPUT, (100, 8)),
    }
