"""Miniature base models and random adapters, made on the spot from a seed.

torch, transformers and PEFT take seconds to import, so each is imported where it is first needed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS = "<|im_start|>"
EOS = "<|im_end|>"
UNKNOWN = "<|endoftext|>"
VOCABULARY = 384
CONTEXT_LENGTH = 1024
LLAMA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A base model stays in memory once; each adapter adds a little, and they run in one batch.",
    "Le renard brun saute par-dessus le chien paresseux: déjà vu, naïve café, œuvre, Größe, señor.",
    '{"name": "Ada", "year": 1815, "items": [1, 2, 3], "ok": true}',
    "system user assistant\nWhat is the capital of France? The capital of France is Paris.\n",
)

# What each family calls itself, and what it has beyond the shape that all share. Small windows make
# sliding attention matter within a few tokens.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 10.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {"model_type": "phi3"},
    "gpt_neox": {"model_type": "gpt_neox", "num_key_value_heads": None},
    "gpt2": {"model_type": "gpt2", "num_key_value_heads": None},
}
FAMILIES = tuple(_FAMILIES)


def write_tiny_base(folder: Path, *, seed: int = 0, family: str = "llama") -> Path:
    """Write a random decoder-only model of `family` with its tokenizer into `folder`, and return `folder`.

    Two layers, hidden size 64, grouped-query heads where the family has them, float32, byte-level BPE of at
    most VOCABULARY entries. The same arguments give the same weights. `folder` holds config.json,
    generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    """
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder)
    shape: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_LENGTH,
        # Ten times the usual spread: with less, all tokens are nearly as likely and greedy choices are ties.
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(EOS),
        "pad_token_id": tokenizer.token_to_id(UNKNOWN),
    }
    options = {name: value for name, value in {**shape, **_FAMILIES[family]}.items() if value is not None}
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            # Biases and norms begin as constants, which would hide whether they are read.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return folder


def write_random_adapter(
    folder: Path,
    base_folder: Path,
    *,
    rank: int = 8,
    seed: int = 1,
    target_modules: Sequence[str] | str = LLAMA_MODULES,
    base_name: str | None = None,
    save_embedding_layers: bool | Literal["auto"] = "auto",
    **peft_config: Any,  # whatever LoraConfig takes
) -> Path:
    """Let PEFT write a LoRA adapter of random weights for the base in `base_folder`, and return `folder`.

    `lora_alpha` is twice the rank unless given. All that training would change is random, so the adapter changes what
    the base says.
    The config names `base_name` as its base, or else the name of `base_folder`. With the output layer
    among the targets PEFT saves the base's own embeddings too, unless told not to. `folder` holds
    adapter_config.json and adapter_model.safetensors. The same arguments give the same bytes.
    """
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    options: dict[str, Any] = {"lora_alpha": 2 * rank, "task_type": "CAUSAL_LM", **peft_config}
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = get_peft_model(base, LoraConfig(r=rank, target_modules=targets, **options))
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5 / max(parameter.shape) ** 0.5)
            elif parameter.requires_grad:  # trained from where the base has it
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), save_embedding_layers=save_embedding_layers)
    (folder / "README.md").unlink(missing_ok=True)
    _settle_config(folder / "adapter_config.json", base_name or base_folder.name)
    return folder


def _settle_config(path: Path, base_name: str) -> None:
    """Name the base, and sort the target modules: PEFT writes them in the order of a set."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["base_model_name_or_path"] = base_name
    if isinstance(document["target_modules"], list):
        document["target_modules"].sort()
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[UNKNOWN, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    document = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNKNOWN,
        "pad_token": UNKNOWN,
        "model_max_length": CONTEXT_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return tokenizer
