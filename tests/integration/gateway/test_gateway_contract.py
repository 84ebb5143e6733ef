"""What the contract promises of names, repeats, records, and of what nobody does yet."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from loramux.account.v1 import account_pb2 as pb
from loramux.account.v1 import key_pb2
from tests.support.gateway import OPERATOR, Rig, answer, refusal, rig
from tests.support.gateway_registry import ScriptedRegistry, deployment_route


async def test_a_repeated_call_returns_what_the_first_one_made(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        open_acme = pb.CreateAccountRequest(account_id="acme", credit_pico_usd=5, idempotency_key="a")
        first = await r.accounts.CreateAccount(open_acme, metadata=OPERATOR)
        assert await r.accounts.CreateAccount(open_acme, metadata=OPERATOR) == first
        mint = pb.CreateKeyRequest(account="acme", description="laptop", idempotency_key="k")
        made = await r.accounts.CreateKey(mint, metadata=OPERATOR)
        assert await r.accounts.CreateKey(mint, metadata=OPERATOR) == made
        mint.idempotency_key = "k2"
        assert (await r.accounts.CreateKey(mint, metadata=OPERATOR)).secret != made.secret
        keys = await r.accounts.ListKeys(pb.ListKeysRequest(account="acme"), metadata=OPERATOR)
        assert len(keys.keys) == 2
        open_acme.account_id = "other"
        error = await refusal(r.accounts.CreateAccount(open_acme, metadata=OPERATOR))
        assert [one.field for one in error.field_violations] == ["idempotency_key"]


LATER: dict[str, Callable[[Rig], Awaitable[object]]] = {
    "UpdateAccount": lambda r: r.accounts.UpdateAccount(pb.UpdateAccountRequest(), metadata=OPERATOR),
    "ListAccounts": lambda r: r.accounts.ListAccounts(pb.ListAccountsRequest(), metadata=OPERATOR),
    "RefundRequest": lambda r: r.accounts.RefundRequest(pb.RefundRequestRequest(), metadata=OPERATOR),
    "QueryUsage": lambda r: r.accounts.QueryUsage(pb.QueryUsageRequest(account="acme"), metadata=OPERATOR),
    "scopes": lambda r: r.accounts.CreateKey(
        pb.CreateKeyRequest(account="acme", scopes=[key_pb2.SCOPE_GENERATE]), metadata=OPERATOR
    ),
    "models": lambda r: r.accounts.CreateKey(
        pb.CreateKeyRequest(account="acme", models=["acme/x"]), metadata=OPERATOR
    ),
    "expire_time": lambda r: r.accounts.CreateKey(
        pb.CreateKeyRequest(account="acme", expire_time=Timestamp(seconds=1)), metadata=OPERATOR
    ),
    "spending_cap": lambda r: r.accounts.CreateKey(
        pb.CreateKeyRequest(account="acme", spending_cap=key_pb2.SpendingCap()), metadata=OPERATOR
    ),
    "rate": lambda r: r.accounts.CreateKey(
        pb.CreateKeyRequest(account="acme", rate=key_pb2.KeyRate()), metadata=OPERATOR
    ),
}


@pytest.mark.parametrize("field", LATER)
async def test_what_the_contract_can_say_and_nobody_does_yet_is_refused_by_name(
    tmp_path: Path, field: str
) -> None:
    async with rig(tmp_path) as r:
        await r.member("acme")
        error = await refusal(LATER[field](r))
        assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
        assert error.metadata == {"field": field}


@pytest.mark.parametrize("name", ["x" * 10_000, "a" * 1_000, "\x1b[2J"], ids=["long", "longish", "escape"])
async def test_a_name_that_cannot_be_is_refused_in_a_status_that_arrives(tmp_path: Path, name: str) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        for call in (
            r.call(member, name),
            r.accounts.GetAccount(pb.GetAccountRequest(account=name), metadata=OPERATOR),
            r.accounts.RevokeKey(pb.RevokeKeyRequest(name=name), metadata=member.metadata),
            r.accounts.GrantCredit(
                pb.GrantCreditRequest(account=name, amount_pico_usd=1, idempotency_key="x"), metadata=OPERATOR
            ),
        ):
            error = await refusal(call)
            assert error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
            assert error.reason.endswith(("_NOT_FOUND", "INVALID_FIELD"))
            assert len(error.message) < 500


async def test_a_record_says_who_what_where_and_when(tmp_path: Path) -> None:
    registry = ScriptedRegistry(deployments=[deployment_route("acme/x", uid="u" * 32)])
    async with rig(tmp_path, registry=registry) as r:
        member = await r.member()
        got = await answer(r.call(member, "acme/x"))
        keys = await r.accounts.ListKeys(pb.ListKeysRequest(), metadata=member.metadata)
        (record,) = await r.usage()
        assert (record.account, record.key) == ("acme", keys.keys[0].name)
        assert (record.deployment_uid, record.worker_id) == ("u" * 32, "worker-0")
        moments = [record.start_time, record.first_token_time, record.end_time]
        assert moments == sorted(moments, key=Timestamp.ToNanoseconds)
        assert record.price.prompt_pico_usd == 30
        completion = got.completion
        assert completion.version_digest == record.adapter_digest == "d" * 64
        assert (completion.fingerprint.engine, completion.fingerprint.mode) == ("scripted", "by hand")
        first, total = completion.timings.first_chunk, completion.timings.total
        assert 0 < first.ToNanoseconds() <= total.ToNanoseconds()
