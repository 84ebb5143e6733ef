"""AccountService over gRPC: who may do what, and translation."""

from loramux.account.v1 import account_pb2, account_pb2_grpc
from services.common import errors, internal
from services.common.rpc_types import RpcContext
from services.gateway.accounts.accounts import Account, Accounts
from services.gateway.accounts.auth import Authenticator, Principal
from services.gateway.accounts.keys import Keys
from services.gateway.accounts.names import check_account_name, check_request_id
from services.gateway.accounts.paging import page_size, page_token, place_of
from services.gateway.billing.ledger import Balance, Ledger
from services.gateway.billing.usage import UsageRecords
from services.gateway.limits.limiter import Limits
from services.gateway.routes import RouteTable
from services.gateway.rpc import account_messages as translate

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
        routes: RouteTable,
        defaults: Limits,
    ) -> None:
        """`defaults` are the operator's limits."""
        self._auth = auth
        self._accounts = accounts
        self._keys = keys
        self._ledger = ledger
        self._records = records
        self._routes = routes
        self._defaults = defaults

    async def CreateAccount(
        self, request: account_pb2.CreateAccountRequest, context: RpcContext
    ) -> account_pb2.CreateAccountResponse:
        """Operator: open an account."""
        (await self._caller(context)).operator()
        check_account_name(request.account_id, [base.name for base in self._routes.base_models()])
        account = await self._accounts.create(
            request.account_id,
            translate.limits(request.limits),
            request.credit_pico_usd,
        )
        balance = await self._ledger.balance(account.id)
        return account_pb2.CreateAccountResponse(account=self._message(account, balance))

    async def GrantCredit(
        self, request: account_pb2.GrantCreditRequest, context: RpcContext
    ) -> account_pb2.GrantCreditResponse:
        """Operator: add credit, once for each request_id."""
        (await self._caller(context)).operator()
        if request.amount_pico_usd <= 0:
            raise errors.InvalidFieldError("amount_pico_usd", request.amount_pico_usd, "above 0")
        # Without one, a retry would grant twice.
        check_request_id(request.request_id, required=True)
        account = await self._accounts.get(request.account_id)
        balance = await self._ledger.grant(account.id, request.amount_pico_usd, request.request_id)
        return account_pb2.GrantCreditResponse(account=self._message(account, balance))

    async def GetAccount(
        self, request: account_pb2.GetAccountRequest, context: RpcContext
    ) -> account_pb2.GetAccountResponse:
        """Limits and balance."""
        account = await self._account(context, request.account_id)
        balance = await self._ledger.balance(account.id)
        return account_pb2.GetAccountResponse(account=self._message(account, balance))

    async def CreateKey(
        self, request: account_pb2.CreateKeyRequest, context: RpcContext
    ) -> account_pb2.CreateKeyResponse:
        """A new key, with its secret this once."""
        account = await self._account(context, request.account_id)
        key, secret = await self._keys.create(account.id, request.description)
        return account_pb2.CreateKeyResponse(key=translate.key_message(key), secret=secret)

    async def ListKeys(
        self, request: account_pb2.ListKeysRequest, context: RpcContext
    ) -> account_pb2.ListKeysResponse:
        """Keys, oldest first."""
        account = await self._account(context, request.account_id)
        listing = ("keys", account.id)
        size = page_size(request.page_size)
        found = await self._keys.page(account.id, place_of(request.page_token, listing), size + 1)
        return account_pb2.ListKeysResponse(
            keys=[translate.key_message(key) for key in found[:size]],
            next_page_token=page_token(listing, found[size - 1].place) if len(found) > size else "",
        )

    async def RevokeKey(
        self, request: account_pb2.RevokeKeyRequest, context: RpcContext
    ) -> account_pb2.RevokeKeyResponse:
        """End a key: here at once, in other gateways within 5 s."""
        caller = await self._caller(context)
        key = await self._keys.revoke(request.key_id, None if caller.is_operator else caller.account)
        self._auth.forget(key.id)
        return account_pb2.RevokeKeyResponse(key=translate.key_message(key))

    async def ListUsage(
        self, request: account_pb2.ListUsageRequest, context: RpcContext
    ) -> account_pb2.ListUsageResponse:
        """Usage records, newest first."""
        account = await self._account(context, request.account_id)
        listing = ("usage", account.id, request.model)
        size = page_size(request.page_size)
        after = place_of(request.page_token, listing)
        found = await self._records.page(account.id, request.model, after, size + 1)
        return account_pb2.ListUsageResponse(
            records=[translate.usage_message(record) for record in found[:size]],
            next_page_token=page_token(listing, found[size - 1].place) if len(found) > size else "",
        )

    async def GetBill(
        self, request: account_pb2.GetBillRequest, context: RpcContext
    ) -> account_pb2.GetBillResponse:
        """What was charged in a span of time."""
        account = await self._account(context, request.account_id)
        start = translate.moment(request.start_time, "start_time") if request.HasField("start_time") else None
        end = translate.moment(request.end_time, "end_time") if request.HasField("end_time") else None
        if start is not None and end is not None and end < start:
            raise errors.InvalidFieldError("end_time", end.isoformat(), "not before start_time")
        lines = await self._records.bill(account.id, start, end)
        return account_pb2.GetBillResponse(
            lines=[translate.bill_line(line) for line in lines],
            total_pico_usd=sum(line.total for line in lines),
        )

    async def _caller(self, context: RpcContext) -> Principal:
        return await self._auth.authenticate(internal.metadata_of(context).get("authorization", ""))

    async def _account(self, context: RpcContext, asked: str) -> Account:
        """The account that a call is about. Raises NotFoundError, the same for unknown and foreign ones."""
        caller = await self._caller(context)
        if caller.is_operator:
            if not asked:
                raise errors.InvalidFieldError("account_id", "", "an account's id; the operator has none")
        elif asked not in ("", caller.account):
            raise errors.NotFoundError("account", asked)
        return await self._accounts.get(asked or caller.account)

    def _message(self, account: Account, balance: Balance) -> account_pb2.Account:
        return translate.account_message(account, balance, self._defaults)
