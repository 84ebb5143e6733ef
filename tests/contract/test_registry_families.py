"""What the registry reads off each family's files is what transformers makes of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from services.registry.bases.base_list import read_base_list
from services.registry.bases.base_model import BaseModel
from services.registry.bases.source_files import resolve_base
from services.registry.hub_reader import HubReader
from tests.support.models import CONTEXT_LENGTH, FAMILIES, write_tiny_base
from tests.support.registry import base_list


def resolved(folder: Path, listed: Path) -> BaseModel:
    listed.write_text(base_list(folder, target_modules=None))
    return asyncio.run(
        resolve_base(read_base_list(listed)[0], HubReader("http://127.0.0.1:9", patience=0), "")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_targets_context_and_vocabulary_are_the_bases_own(family: str, tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / family, family=family)
    base = resolved(folder, tmp_path / "bases.toml")
    # Any: transformers' own type of it says too little.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    linears = {
        path: module for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: path for path, module in model.named_modules()}
    assert set(base.target_modules) == {
        path.rpartition(".")[2] for path in (*linears, names[embedding], names[output])
    }
    assert set(base.adaptable.linears) == linears.keys() - {names[output]}
    assert base.modules[names[output]].tied == (output.weight is embedding.weight)
    assert base.vocabulary_size == embedding.weight.shape[0]
    assert base.context_length == CONTEXT_LENGTH
    assert base.model_type == model.config.model_type
