"""AccountService: who may see and do what."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from loramux.account.v1 import account_pb2 as pb
from loramux.account.v1 import key_pb2, usage_pb2
from tests.support.gateway import OPERATOR, Member, Rig, answer, refusal, rig
from tests.support.gateway_registry import ScriptedRegistry, base_route


async def test_an_account_begins_with_its_credit_and_limits(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        request = pb.CreateAccountRequest(
            account_id="acme", limits=pb.Limits(max_in_flight=7), credit_pico_usd=5
        )
        made = (await r.accounts.CreateAccount(request, metadata=OPERATOR)).account
        assert (made.name, made.balance.available_pico_usd, made.balance.reserved_pico_usd) == ("acme", 5, 0)
        assert made.limits == pb.Limits(max_in_flight=7)
        assert made.effective_limits == pb.Limits(max_in_flight=7, requests_per_minute=0, tokens_per_minute=0)
        error = await refusal(r.accounts.CreateAccount(request, metadata=OPERATOR))
        assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_EXISTS")
        assert await r.account() == made


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateAccountRequest(account_id="A"), "account_id"),
        (pb.CreateAccountRequest(account_id=""), "account_id"),
        (pb.CreateAccountRequest(account_id="acme", idempotency_key="\n"), "idempotency_key"),
        (pb.CreateAccountRequest(account_id="acme", credit_pico_usd=-1), "credit_pico_usd"),
        (
            pb.CreateAccountRequest(account_id="acme", limits=pb.Limits(max_in_flight=0)),
            "limits.max_in_flight",
        ),
        (
            pb.CreateAccountRequest(account_id="acme", limits=pb.Limits(tokens_per_minute=-5)),
            "limits.tokens_per_minute",
        ),
    ],
)
async def test_an_account_that_makes_no_sense_is_refused(
    tmp_path: Path, request_: pb.CreateAccountRequest, field: str
) -> None:
    async with rig(tmp_path, registry=ScriptedRegistry(base_models=[base_route("Org/tiny")])) as r:
        error = await refusal(r.accounts.CreateAccount(request_, metadata=OPERATOR))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [one.field for one in error.field_violations] == [field]


async def test_a_grant_counts_once_for_each_idempotency_key(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.member(credit=0)
        grant = pb.GrantCreditRequest(account="acme", amount_pico_usd=70, idempotency_key="g1")
        for _ in range(3):
            granted = await r.accounts.GrantCredit(grant, metadata=OPERATOR)
            assert granted.account.balance.available_pico_usd == 70
        grant.idempotency_key = "g2"
        assert (
            await r.accounts.GrantCredit(grant, metadata=OPERATOR)
        ).account.balance.available_pico_usd == 140


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"amount_pico_usd": 0}, grpc.StatusCode.INVALID_ARGUMENT, "amount_pico_usd"),
        ({"amount_pico_usd": -5}, grpc.StatusCode.INVALID_ARGUMENT, "amount_pico_usd"),
        ({"amount_pico_usd": 2**63 - 1}, grpc.StatusCode.INVALID_ARGUMENT, "amount_pico_usd"),
        ({"idempotency_key": ""}, grpc.StatusCode.INVALID_ARGUMENT, "idempotency_key"),
        ({"account": "nobody"}, grpc.StatusCode.NOT_FOUND, "nobody"),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, object], code: grpc.StatusCode, named: str
) -> None:
    async with rig(tmp_path) as r:
        await r.member(credit=1)
        fields = {"account": "acme", "amount_pico_usd": 1, "idempotency_key": "x", **changes}
        request = pb.GrantCreditRequest(**fields)  # type: ignore[arg-type]  # parametrised
        error = await refusal(r.accounts.GrantCredit(request, metadata=OPERATOR))
        assert error.code is code
        assert named in error.message


async def test_what_is_the_operators_is_denied_to_members(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        for call in (
            r.accounts.CreateAccount(pb.CreateAccountRequest(account_id="other"), metadata=member.metadata),
            r.accounts.GrantCredit(
                pb.GrantCreditRequest(account="acme", amount_pico_usd=1, idempotency_key="x"),
                metadata=member.metadata,
            ),
        ):
            error = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


Method = Callable[[Rig, str, Member], Awaitable[object]]
METHODS: dict[str, Method] = {
    "GetAccount": lambda r, account, member: r.accounts.GetAccount(
        pb.GetAccountRequest(account=account), metadata=member.metadata
    ),
    "CreateKey": lambda r, account, member: r.accounts.CreateKey(
        pb.CreateKeyRequest(account=account), metadata=member.metadata
    ),
    "ListKeys": lambda r, account, member: r.accounts.ListKeys(
        pb.ListKeysRequest(account=account), metadata=member.metadata
    ),
    "ListUsage": lambda r, account, member: r.accounts.ListUsage(
        pb.ListUsageRequest(account=account), metadata=member.metadata
    ),
    "GetBill": lambda r, account, member: r.accounts.GetBill(
        pb.GetBillRequest(account=account), metadata=member.metadata
    ),
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_member_sees_its_own_account_and_no_trace_of_another(tmp_path: Path, method: str) -> None:
    async with rig(tmp_path) as r:
        member, _ = await r.member("acme"), await r.member("rival")
        call = METHODS[method]
        assert await call(r, "", member) is not None
        assert await call(r, "acme", member) is not None
        foreign = await refusal(call(r, "rival", member))
        unknown = await refusal(call(r, "nobody", member))
        assert foreign.code is unknown.code is grpc.StatusCode.NOT_FOUND
        assert foreign.message.replace("rival", "nobody") == unknown.message


@pytest.mark.parametrize("method", METHODS)
async def test_the_operator_must_say_whose_account_it_means(tmp_path: Path, method: str) -> None:
    async with rig(tmp_path) as r:
        await r.member("acme")
        operator = Member("", OPERATOR[0][1].removeprefix("Bearer "))
        call = METHODS[method]
        assert await call(r, "acme", operator) is not None
        assert (await refusal(call(r, "", operator))).code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await refusal(call(r, "nobody", operator))).code is grpc.StatusCode.NOT_FOUND


async def test_keys_are_listed_by_page_without_their_secrets(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        secrets = [member.key]
        for place in range(4):
            made = await r.accounts.CreateKey(
                pb.CreateKeyRequest(description=f"key {place}"), metadata=member.metadata
            )
            secrets.append(made.secret)
        request = pb.ListKeysRequest(page_size=2)
        keys: list[key_pb2.Key] = []
        while True:
            page = await r.accounts.ListKeys(request, metadata=member.metadata)
            assert len(page.keys) <= 2
            keys += page.keys
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert [key.description for key in keys] == ["", "key 0", "key 1", "key 2", "key 3"]
        assert [secret[:8] for secret in secrets] == [key.prefix for key in keys]
        assert not any(secret in str(keys) for secret in secrets)


async def test_a_page_token_of_another_list_or_none_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        await r.accounts.CreateKey(pb.CreateKeyRequest(), metadata=member.metadata)
        page = await r.accounts.ListKeys(pb.ListKeysRequest(page_size=1), metadata=member.metadata)
        for call in (
            r.accounts.ListKeys(pb.ListKeysRequest(page_token="nonsense"), metadata=member.metadata),
            r.accounts.ListUsage(
                pb.ListUsageRequest(page_token=page.next_page_token), metadata=member.metadata
            ),
            r.accounts.ListKeys(pb.ListKeysRequest(page_size=-1), metadata=member.metadata),
        ):
            assert (await refusal(call)).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_member_revokes_its_own_keys_and_no_others(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member, rival = await r.member("acme"), await r.member("rival")
        made = await r.accounts.CreateKey(pb.CreateKeyRequest(), metadata=member.metadata)
        request = pb.RevokeKeyRequest(name=made.key.name)
        foreign = await refusal(r.accounts.RevokeKey(request, metadata=rival.metadata))
        assert (foreign.code, foreign.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
        revoked = await r.accounts.RevokeKey(request, metadata=member.metadata)
        assert revoked.key.HasField("revoke_time")
        again = await r.accounts.RevokeKey(request, metadata=OPERATOR)
        assert again.key.revoke_time == revoked.key.revoke_time
        spent = Member("acme", made.secret)
        assert (await refusal(METHODS["GetAccount"](r, "", spent))).reason == "KEY_REVOKED"


async def test_usage_is_listed_newest_first_and_by_model(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        for place in range(3):
            await answer(r.call(member, client_request_id=f"r{place}"))
        request = pb.ListUsageRequest(page_size=2)
        first = await r.accounts.ListUsage(request, metadata=member.metadata)
        request.page_token = first.next_page_token
        second = await r.accounts.ListUsage(request, metadata=member.metadata)
        records = [*first.records, *second.records]
        assert [record.client_request_id for record in records] == ["r2", "r1", "r0"]
        assert second.next_page_token == ""
        other = await r.accounts.ListUsage(
            pb.ListUsageRequest(filter=usage_pb2.UsageFilter(model="other")), metadata=member.metadata
        )
        assert list(other.records) == []


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def test_a_bill_keeps_to_its_span_of_time(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        await answer(r.call(member))
        now = datetime.now(UTC)
        for start, end, total in (
            (now - timedelta(hours=1), now + timedelta(hours=1), 340),
            (now + timedelta(hours=1), None, 0),
            (None, now - timedelta(hours=1), 0),
        ):
            request = pb.GetBillRequest(
                start_time=None if start is None else stamp(start),
                end_time=None if end is None else stamp(end),
            )
            bill = await r.accounts.GetBill(request, metadata=member.metadata)
            assert bill.total_pico_usd == total


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GetBillRequest(start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=9)), "end_time"),
        (pb.GetBillRequest(start_time=Timestamp(seconds=2**60)), "start_time"),
        (pb.GetBillRequest(end_time=Timestamp(nanos=-1)), "end_time"),
    ],
)
async def test_a_bill_of_no_span_of_time_is_refused(
    tmp_path: Path, request_: pb.GetBillRequest, field: str
) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        error = await refusal(r.accounts.GetBill(request_, metadata=member.metadata))
        assert [one.field for one in error.field_violations] == [field]
