"""Messages that are small on the wire and large as values: they stop nobody (gateway review, G1)."""

from pathlib import Path

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.inference.v1 import inference_pb2
from services.gateway.rpc import inference_messages
from tests.support.gateway import answer, refusal, rig
from tests.support.gateway_registry import BASE


@pytest.mark.parametrize(
    ("turns", "with_key", "kind"),
    [
        (
            2_090_000,
            False,
            sdk.MessageTooLargeError,
        ),  # 4.18 MB stopped the loop for 3 s, for whoever had no key
        (2_090_000, True, sdk.MessageTooLargeError),
        (520_000, False, sdk.UnauthenticatedError),  # below 1 MiB
        (520_000, True, sdk.InvalidArgumentError),
    ],
)
async def test_a_million_empty_turns_do_not_become_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int, with_key: bool, kind: type[sdk.LoramuxError]
) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        with monkeypatch.context() as patched:
            patched.setattr(inference_messages, "_turn", pytest.fail)
            request = inference_pb2.GenerateRequest(model=BASE)
            request.chat.MergeFromString(b"\x0a\x00" * turns)
            call: grpc.aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse] = (
                r.inference.Generate(request, metadata=member.metadata if with_key else ())
            )
            error = await refusal(call)
        assert type(error) is kind
        if kind is sdk.InvalidArgumentError:
            assert [one.field for one in error.field_violations] == ["chat.messages"]
            assert "1024" in str(error)
        assert (await answer(r.call(member, BASE))).tokens > 0
