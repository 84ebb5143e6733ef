"""One vocabulary and one context: the model's rows, and what every worker of the base can hold."""

from pathlib import Path

import pytest

from loramux.fleet.v1 import routing_pb2
from loramux.inference.v1 import inference_pb2, sampling_pb2
from tests.support.gateway import Rig, answer, refusal, rig
from tests.support.gateway_registry import BASE, CONTEXT, ScriptedRegistry, base_route, worker_route
from tests.support.gateway_tokenizer import VOCABULARY

ROWS = VOCABULARY + 6


def registry() -> ScriptedRegistry:
    return ScriptedRegistry(base_models=[base_route(vocabulary=ROWS)])


async def asked(r: Rig, *ids: int, **sampling: object) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(
        model=BASE,
        tokens=inference_pb2.TokenPrompt(ids=ids),
        sampling=sampling_pb2.SamplingParams(max_tokens=4, **sampling),  # type: ignore[arg-type]  # named by the tests
    )


async def test_a_row_that_the_tokenizer_leaves_unused_may_be_asked_for(tmp_path: Path) -> None:
    """An adapter may have trained it (field report F8)."""
    async with rig(tmp_path, registry=registry()) as r:
        member = await r.member()
        last = ROWS - 1
        request = await asked(r, 1, last, stop_token_ids=[last], logit_bias={last: -1.0})
        await answer(r.inference.Generate(request, metadata=member.metadata))
        assert list(r.worker.requests[-1].prompt_token_ids) == [1, last]


@pytest.mark.parametrize(
    ("ids", "sampling", "field"),
    [
        ((1, ROWS), {}, "tokens.ids[1]"),
        ((1,), {"stop_token_ids": [ROWS]}, "sampling.stop_token_ids[0]"),
        ((1,), {"logit_bias": {ROWS: 1.0}}, "sampling.logit_bias[0]"),
    ],
)
async def test_beyond_the_models_rows_there_is_no_token(
    tmp_path: Path, ids: tuple[int, ...], sampling: dict[str, object], field: str
) -> None:
    async with rig(tmp_path, registry=registry()) as r:
        member = await r.member()
        request = await asked(r, *ids, **sampling)
        error = await refusal(r.inference.Generate(request, metadata=member.metadata))
        assert [one.field for one in error.field_violations] == [field]
        assert f"below {ROWS}" in str(error)


async def test_max_tokens_that_nobody_set_fits_what_the_smallest_worker_can_hold(tmp_path: Path) -> None:
    """Else the worker refuses it, after the reservation (field report F7)."""
    held = CONTEXT // 2
    async with rig(tmp_path) as r:
        member = await r.member()
        update = routing_pb2.WatchRoutesResponse(
            workers=[worker_route("worker-0", r.worker.address, context=held)]
        )
        r.registry.send(update)
        request = inference_pb2.GenerateRequest(model=BASE, text="hello")
        while True:
            await answer(r.inference.Generate(request, metadata=member.metadata))
            if r.worker.requests[-1].sampling.max_tokens != CONTEXT - len("hello"):
                break
        assert r.worker.requests[-1].sampling.max_tokens == held - len("hello")
        request.text = "x" * held
        error = await refusal(r.inference.Generate(request, metadata=member.metadata))
        assert error.reason == "PROMPT_TOO_LONG"
        assert f"at most {held - 1} tokens" in str(error)
