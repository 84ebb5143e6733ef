"""Every adapter equals PEFT in float32, alone and in a batch with the base and with other adapters."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from tests.support.engine import Stepper, answer, files_of, running_engine
from tests.support.models import write_random_adapter, write_tiny_base
from tests.support.paths import ADAPTERS, BASE

# What PEFT and transformers have to say about the adapters made here.
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'"),  # a bias of B is one-dimensional
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

TOLERANCE = 1e-4
PROMPT = 12

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "rank 1": {"rank": 1},
    "rank 8": {"rank": 8},
    "rank 64": {"rank": 64, "lora_alpha": 16},
    "rank 128": {"rank": 128, "lora_alpha": 32},
    "rank-stabilised": {"rank": 16, "use_rslora": True},
    "rank pattern": {"rank": 4, "rank_pattern": {"down_proj": 9, "layers.1.self_attn.q_proj": 2}},
    "alpha pattern": {"rank": 4, "alpha_pattern": {".*layers.0.*proj": 3, "up_proj": 20}},
    "all patterns": {
        "rank": 4,
        "use_rslora": True,
        "rank_pattern": {"^model.layers.0.mlp.up_proj": 12, "o_proj": 1},
        "alpha_pattern": {"o_proj": 5, ".*proj": 7},
    },
    "one layer": {"rank": 4, "layers_to_transform": [1], "layers_pattern": "layers"},
    "two modules": {"rank": 4, "target_modules": ["q_proj", "v_proj"]},
    "regex": {"rank": 4, "target_modules": r".*layers\.0\.(self_attn\.k_proj|mlp\.gate_proj)"},
    "all linear": {"rank": 4, "target_modules": "all-linear"},
    "output layer": {"rank": 6, "target_modules": ["lm_head", "q_proj"], "save_embedding_layers": False},
    "output layer, base's weight beside it": {"rank": 6, "target_modules": ["lm_head", "q_proj"]},
    "DoRA": {"rank": 8, "use_dora": True},
    "DoRA, rank-stabilised, patterns": {
        "rank": 4,
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 7},
        "target_modules": ["q_proj", "down_proj", "lm_head"],
        "save_embedding_layers": False,
    },
    "bias of B": {"rank": 4, "lora_bias": True},
    "bias all": {"rank": 4, "bias": "all", "target_modules": ["q_proj", "o_proj"]},
    "bias all, DoRA": {"rank": 4, "bias": "all", "use_dora": True, "target_modules": ["q_proj", "v_proj"]},
    "bias lora_only": {"rank": 4, "bias": "lora_only", "target_modules": ["k_proj", "up_proj"]},
    "embedding": {"rank": 4, "target_modules": ["embed_tokens", "v_proj"]},
    "embedding, DoRA": {
        "rank": 5,
        "use_dora": True,
        "target_modules": ["embed_tokens"],
        "save_embedding_layers": False,
    },
    "output layer saved": {"rank": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "norms saved": {"rank": 4, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "embedding saved": {"rank": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "all three saved": {
        "rank": 4,
        "target_modules": ["o_proj"],
        "modules_to_save": ["embed_tokens", "lm_head", "model.norm"],
    },
    "tokens": {"rank": 4, "target_modules": ["q_proj"], "trainable_token_indices": [300, 5, 17]},
    "tokens by module": {
        "rank": 4,
        "target_modules": "all-linear",
        "trainable_token_indices": {"embed_tokens": [9, 200, 201, 7]},
    },
}


def tokens_of(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 384, (count,), generator=generator).tolist()


def peft_logits(base: Path, adapter: Path | None, tokens: Sequence[int]) -> Tensor:
    """PEFT's logits from the prompt's last position on; the bare model's without an adapter."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([tokens])).logits[0, PROMPT - 1 :]
    return logits


def loaded(stepper: Stepper, folder: Path) -> LoadedAdapter:
    """The adapter, which takes no more memory than was set aside for it."""
    files = files_of(folder)
    adapter = stepper.loader.load(files)
    assert adapter.nbytes <= stepper.loader.most_bytes(files)
    return adapter


@pytest.mark.parametrize("use_kernels", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_variant_equals_peft_alone_and_with_all_the_others(
    tmp_path: Path, tied: bool, use_kernels: bool
) -> None:
    base = write_tiny_base(tmp_path / "base", family="qwen2" if tied else "llama")
    stepper = Stepper(base, use_kernels=use_kernels)
    expected, sequences = [], []
    for seed, options in enumerate([None, *VARIANTS.values()]):
        tokens = tokens_of(PROMPT + 64, seed)
        folder = None
        if options is not None:
            folder = write_random_adapter(tmp_path / str(seed), base, seed=seed, **options)
        adapter = None if folder is None else loaded(stepper, folder)
        expected.append(peft_logits(base, folder, tokens))
        sequences.append((tokens, adapter))
        (alone,) = stepper.logits(sequences[-1:], prompt_length=PROMPT)
        assert (alone - expected[-1]).abs().max() <= TOLERANCE, options
    together = stepper.logits(sequences, prompt_length=PROMPT)
    for name, found, wanted in zip(["base", *VARIANTS], together, expected, strict=True):
        assert (found - wanted).abs().max() <= TOLERANCE, name
        assert torch.equal(found.argmax(-1), wanted.argmax(-1)), name


def test_an_adapter_changes_more_than_the_tolerance(tmp_path: Path) -> None:
    """The comparisons above would notice an adapter that is left out."""
    base = write_tiny_base(tmp_path / "base")
    tokens = tokens_of(PROMPT + 8, 0)
    without = peft_logits(base, None, tokens)
    for seed, options in enumerate(VARIANTS.values()):
        folder = write_random_adapter(tmp_path / str(seed), base, seed=seed, **options)
        assert (peft_logits(base, folder, tokens) - without).abs().max() > 100 * TOLERANCE


FAMILY_VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "qwen3": [
        {"target_modules": ["q_proj", "o_proj", "gate_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},  # those of each head too
        {"target_modules": ["k_proj"], "modules_to_save": ["layers.1.self_attn.k_norm"]},
    ],
    "mistral": [{"target_modules": ["k_proj", "down_proj"]}, {"use_dora": True}],
    "gemma2": [
        {"target_modules": ["q_proj", "v_proj", "up_proj", "lm_head"], "save_embedding_layers": False},
        {"target_modules": ["q_proj"], "modules_to_save": ["post_feedforward_layernorm"]},
        {"target_modules": ["embed_tokens", "q_proj"], "save_embedding_layers": False},
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["lm_head"],
        },  # its logits are bent as the base's are
        {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [9, 200]}},
    ],
    "gemma3": [
        {"target_modules": ["q_proj", "v_proj", "up_proj"]},
        {"target_modules": ["embed_tokens"], "save_embedding_layers": False},  # the embedding is scaled
        {"target_modules": ["q_proj"], "trainable_token_indices": [11, 4]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"]},
    ],
    "phi3": [
        {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["gate_up_proj"], "lora_bias": True, "modules_to_save": ["norm"]},
    ],
    "gpt_neox": [
        {"target_modules": ["query_key_value", "dense", "dense_h_to_4h"]},
        {"target_modules": ["query_key_value"], "bias": "all"},  # of the norms too
        {"target_modules": ["dense"], "bias": "lora_only", "use_dora": True},
        {"target_modules": ["dense"], "modules_to_save": ["lm_head", "final_layer_norm"]},
    ],
    "gpt2": [  # Conv1D: PEFT sets fan_in_fan_out
        {"target_modules": ["c_attn", "c_fc", "mlp.c_proj"]},
        {"target_modules": ["c_attn", "c_fc"], "use_dora": True},
        {"target_modules": ["c_attn"], "lora_bias": True},
        {"target_modules": ["c_fc"], "bias": "all"},
        {"target_modules": ["c_attn"], "modules_to_save": ["ln_f", "wte"]},
        {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [3, 350]}},
    ],
}


@pytest.mark.parametrize("use_kernels", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("family", FAMILY_VARIANTS)
def test_families_with_adapters_equal_peft(tmp_path: Path, family: str, use_kernels: bool) -> None:
    base = write_tiny_base(tmp_path / "base", family=family)
    stepper = Stepper(base, use_kernels=use_kernels)
    folders = [
        write_random_adapter(tmp_path / f"a{seed}", base, rank=3 + seed, seed=seed, **options)
        for seed, options in enumerate(FAMILY_VARIANTS[family])
    ]
    tokens = [tokens_of(PROMPT + 40, seed) for seed in range(1 + len(folders))]
    adapters = [None, *(loaded(stepper, folder) for folder in folders)]
    found = stepper.logits(list(zip(tokens, adapters, strict=True)), prompt_length=PROMPT)
    for one, folder, logits in zip(tokens, [None, *folders], found, strict=True):
        assert (logits - peft_logits(base, folder, one)).abs().max() <= TOLERANCE, folder


async def test_real_adapters_answer_as_peft_does_in_a_mixed_batch(tmp_path: Path) -> None:
    """One shipped adapter on three prompts, beside the base and a random adapter of another rank."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    prompts = [
        tokenizer.encode(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
        )
        for text in ("What is the capital of France?", "Tell me about tigers.", "Hi")
    ]
    shipped = ADAPTERS / "pirate"
    other = write_random_adapter(tmp_path / "other", BASE, rank=3, target_modules=["q_proj", "down_proj"])
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine(BASE))
        for folder in (shipped, other):
            await stack.enter_async_context(engine.adapter(files_of(folder)))
        jobs = [(prompt, name) for prompt in prompts for name in (shipped.name, None, other.name)]
        answers = await asyncio.gather(
            *(answer(engine, prompt, adapter=name, max_tokens=12, ignore_eos=False) for prompt, name in jobs)
        )
    found = [one.token_ids for one, (_, name) in zip(answers, jobs, strict=True) if name == shipped.name]
    assert found == peft_answers(shipped, prompts, max_tokens=12)


def peft_answers(adapter: Path, prompts: Sequence[Sequence[int]], *, max_tokens: int) -> list[list[int]]:
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), str(adapter)
    )
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = model.generate(  # type: ignore[no-untyped-call]  # PEFT leaves it untyped
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
            )
        produced = output[0, len(prompt) :].tolist()
        end = model.generation_config.eos_token_id
        found.append(produced[: produced.index(end)] if end in produced else produced)
    return found
