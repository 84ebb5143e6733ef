"""AccountService over gRPC: who may do what, and translation."""

from loramux.account.v1 import account_pb2, account_pb2_grpc
from services.common import errors
from services.common.rpc_types import RpcContext
from services.gateway.accounts.accounts import Account, Accounts
from services.gateway.accounts.auth import Authenticator
from services.gateway.accounts.keys import Keys
from services.gateway.accounts.names import (
    check_account_name,
    check_idempotency_key,
    check_known_account,
    check_known_key,
)
from services.gateway.accounts.paging import page_size, page_token, place_of
from services.gateway.billing.ledger import Balance, Ledger
from services.gateway.billing.usage import UsageRecords
from services.gateway.limits.limiter import Limits
from services.gateway.rpc import account_messages, caller

NAME = account_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name


class AccountServicer(account_pb2_grpc.AccountServiceServicer):
    """Errors are those of the parts; the interceptor turns them into statuses."""

    def __init__(
        self,
        *,
        auth: Authenticator,
        accounts: Accounts,
        keys: Keys,
        ledger: Ledger,
        records: UsageRecords,
        defaults: Limits,
    ) -> None:
        """`defaults` are the operator's limits."""
        self._auth = auth
        self._accounts = accounts
        self._keys = keys
        self._ledger = ledger
        self._records = records
        self._defaults = defaults

    async def CreateAccount(
        self, request: account_pb2.CreateAccountRequest, context: RpcContext
    ) -> account_pb2.CreateAccountResponse:
        """Operator: open an account."""
        caller.principal().operator()
        check_account_name(request.account_id)
        check_idempotency_key(request.idempotency_key)
        account = await self._accounts.create(
            request.account_id,
            account_messages.limits(request.limits),
            request.credit_pico_usd,
            request.idempotency_key,
        )
        balance = await self._ledger.balance(account.id)
        return account_pb2.CreateAccountResponse(account=self._message(account, balance))

    async def GetAccount(
        self, request: account_pb2.GetAccountRequest, context: RpcContext
    ) -> account_pb2.GetAccountResponse:
        """Limits and balance."""
        account = await self._account(request.account)
        balance = await self._ledger.balance(account.id)
        return account_pb2.GetAccountResponse(account=self._message(account, balance))

    async def ListAccounts(
        self, request: account_pb2.ListAccountsRequest, context: RpcContext
    ) -> account_pb2.ListAccountsResponse:
        """Operator; not done yet."""
        caller.principal().operator()
        raise errors.NotImplementedYetError("ListAccounts", "the list of accounts")

    async def UpdateAccount(
        self, request: account_pb2.UpdateAccountRequest, context: RpcContext
    ) -> account_pb2.UpdateAccountResponse:
        """Operator; not done yet."""
        caller.principal().operator()
        raise errors.NotImplementedYetError("UpdateAccount", "a change of an account")

    async def GrantCredit(
        self, request: account_pb2.GrantCreditRequest, context: RpcContext
    ) -> account_pb2.GrantCreditResponse:
        """Operator: add credit, once for each idempotency key."""
        caller.principal().operator()
        if request.amount_pico_usd <= 0:
            raise errors.InvalidFieldError("amount_pico_usd", request.amount_pico_usd, "above 0")
        # Without one, a retry would grant twice.
        check_idempotency_key(request.idempotency_key, required=True)
        check_known_account(request.account)
        account = await self._accounts.get(request.account)
        balance = await self._ledger.grant(account.id, request.amount_pico_usd, request.idempotency_key)
        return account_pb2.GrantCreditResponse(account=self._message(account, balance))

    async def RefundRequest(
        self, request: account_pb2.RefundRequestRequest, context: RpcContext
    ) -> account_pb2.RefundRequestResponse:
        """Operator; not done yet."""
        caller.principal().operator()
        raise errors.NotImplementedYetError("RefundRequest", "a refund")

    async def CreateKey(
        self, request: account_pb2.CreateKeyRequest, context: RpcContext
    ) -> account_pb2.CreateKeyResponse:
        """A new key, with its secret."""
        account_messages.check_key_request(request)
        check_idempotency_key(request.idempotency_key)
        account = await self._account(request.account)
        key, secret = await self._keys.create(account.id, request.description, request.idempotency_key)
        return account_pb2.CreateKeyResponse(key=account_messages.key_message(key), secret=secret)

    async def ListKeys(
        self, request: account_pb2.ListKeysRequest, context: RpcContext
    ) -> account_pb2.ListKeysResponse:
        """Keys, oldest first."""
        account = await self._account(request.account)
        listing = ("keys", account.id)
        size = page_size(request.page_size)
        found = await self._keys.page(account.id, place_of(request.page_token, listing), size + 1)
        return account_pb2.ListKeysResponse(
            keys=[account_messages.key_message(key) for key in found[:size]],
            next_page_token=page_token(listing, found[size - 1].place) if len(found) > size else "",
        )

    async def RevokeKey(
        self, request: account_pb2.RevokeKeyRequest, context: RpcContext
    ) -> account_pb2.RevokeKeyResponse:
        """End a key: here at once, in other gateways within 5 s."""
        principal = caller.principal()
        check_known_key(request.name)
        key = await self._keys.revoke(request.name, None if principal.is_operator else principal.account)
        self._auth.forget(key.id)
        return account_pb2.RevokeKeyResponse(key=account_messages.key_message(key))

    async def ListUsage(
        self, request: account_pb2.ListUsageRequest, context: RpcContext
    ) -> account_pb2.ListUsageResponse:
        """Usage records, newest first."""
        account = await self._account(request.account)
        only = account_messages.usage_filter(request.filter)
        listing = ("usage", account.id, *only.words)
        size = page_size(request.page_size)
        after = place_of(request.page_token, listing)
        found = await self._records.page(account.id, only, after, size + 1)
        return account_pb2.ListUsageResponse(
            records=[account_messages.usage_message(record) for record in found[:size]],
            next_page_token=page_token(listing, found[size - 1].place) if len(found) > size else "",
        )

    async def QueryUsage(
        self, request: account_pb2.QueryUsageRequest, context: RpcContext
    ) -> account_pb2.QueryUsageResponse:
        """Not done yet."""
        await self._account(request.account)
        raise errors.NotImplementedYetError("QueryUsage", "sums of usage")

    async def GetBill(
        self, request: account_pb2.GetBillRequest, context: RpcContext
    ) -> account_pb2.GetBillResponse:
        """What was charged in a span of time."""
        account = await self._account(request.account)
        start, end = account_messages.span(request, "")
        lines = await self._records.bill(account.id, start, end)
        return account_pb2.GetBillResponse(
            lines=[account_messages.bill_line(line) for line in lines],
            total_pico_usd=sum(line.total for line in lines),
        )

    async def _account(self, asked: str) -> Account:
        """The account that a call is about. Raises NotFoundError, the same for unknown and foreign ones."""
        principal = caller.principal()
        if principal.is_operator:
            if not asked:
                raise errors.InvalidFieldError("account", "", "an account's name; the operator has none")
        elif asked not in ("", principal.account):
            raise errors.NotFoundError("account", asked)
        check_known_account(asked or principal.account)
        return await self._accounts.get(asked or principal.account)

    def _message(self, account: Account, balance: Balance) -> account_pb2.Account:
        return account_messages.account_message(account, balance, self._defaults)
