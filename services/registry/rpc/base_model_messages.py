"""Base models as messages: what clients see of one, where workers find it, and its tokenizer in pieces."""

from collections.abc import Iterator

from loramux.deployment.v1 import deployment_pb2
from loramux.fleet.v1 import fleet_pb2, routing_pb2
from loramux.type.v1 import token_price_pb2
from services.registry.bases.base_model import BaseModel, Price, Tokenizer

TOKENIZER_PIECE = 512 * 1024
"""Bytes of tokenizer.json in one message."""


def base_model(base: BaseModel, context_length: int | None = None) -> deployment_pb2.BaseModel:
    """As clients see it; `context_length` is what its workers can serve, where that is known."""
    return deployment_pb2.BaseModel(
        name=base.name,
        adapter_base_names=base.hub_ids,
        commit=base.commit,
        context_length=base.context_length if context_length is None else context_length,
        max_lora_rank=base.max_lora_rank,
        target_modules=base.target_modules,
        price=_price(base.price),
        lora_price=_price(base.price.for_lora()),
        vocabulary_size=base.vocabulary_size,
    )


def _price(price: Price) -> token_price_pb2.TokenPrice:
    return token_price_pb2.TokenPrice(
        prompt_pico_usd=price.prompt,
        cached_prompt_pico_usd=price.cached_prompt,
        completion_pico_usd=price.completion,
    )


def base_source(base: BaseModel) -> fleet_pb2.BaseModelSource:
    """Where a worker finds its files."""
    if base.local_path:
        return fleet_pb2.BaseModelSource(local_path=base.local_path)
    return fleet_pb2.BaseModelSource(hub_repo=base.hub_repo)


def tokenizer_pieces(base: BaseModel) -> Iterator[routing_pb2.GetTokenizerResponse]:
    """The tokenizer in messages below the limit; the first carries everything but the rest of the file."""
    tokenizer: Tokenizer = base.tokenizer
    data = tokenizer.tokenizer_json
    yield routing_pb2.GetTokenizerResponse(
        commit=base.commit,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        tokenizer_json=data[:TOKENIZER_PIECE],
    )
    for begin in range(TOKENIZER_PIECE, len(data), TOKENIZER_PIECE):
        yield routing_pb2.GetTokenizerResponse(tokenizer_json=data[begin : begin + TOKENIZER_PIECE])
