"""AccountService over gRPC: translation only."""

from loramux.account.v1 import account_pb2, account_pb2_grpc
from services.common import errors
from services.common.rpc_types import RpcContext
from services.gateway.accounts.account_desk import AccountDesk
from services.gateway.rpc import account_messages, caller

NAME = account_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name


class AccountServicer(account_pb2_grpc.AccountServiceServicer):
    """Errors are those of the desk; the interceptor turns them into statuses."""

    def __init__(self, desk: AccountDesk) -> None:
        self._desk = desk

    async def CreateAccount(
        self, request: account_pb2.CreateAccountRequest, context: RpcContext
    ) -> account_pb2.CreateAccountResponse:
        """Operator: open an account."""
        view = await self._desk.create_account(
            caller.principal(),
            request.account_id,
            account_messages.limits(request.limits),
            request.credit_pico_usd,
            request.idempotency_key,
        )
        return account_pb2.CreateAccountResponse(account=account_messages.account_message(view))

    async def GetAccount(
        self, request: account_pb2.GetAccountRequest, context: RpcContext
    ) -> account_pb2.GetAccountResponse:
        """Limits and balance."""
        view = await self._desk.get_account(caller.principal(), request.account)
        return account_pb2.GetAccountResponse(account=account_messages.account_message(view))

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
        view = await self._desk.grant_credit(
            caller.principal(), request.account, request.amount_pico_usd, request.idempotency_key
        )
        return account_pb2.GrantCreditResponse(account=account_messages.account_message(view))

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
        key, secret = await self._desk.create_key(
            caller.principal(), request.account, request.description, request.idempotency_key
        )
        return account_pb2.CreateKeyResponse(key=account_messages.key_message(key), secret=secret)

    async def ListKeys(
        self, request: account_pb2.ListKeysRequest, context: RpcContext
    ) -> account_pb2.ListKeysResponse:
        """Keys, oldest first."""
        page = await self._desk.list_keys(
            caller.principal(), request.account, request.page_size, request.page_token
        )
        return account_pb2.ListKeysResponse(
            keys=map(account_messages.key_message, page.entries), next_page_token=page.next_token
        )

    async def RevokeKey(
        self, request: account_pb2.RevokeKeyRequest, context: RpcContext
    ) -> account_pb2.RevokeKeyResponse:
        """End a key."""
        key = await self._desk.revoke_key(caller.principal(), request.name)
        return account_pb2.RevokeKeyResponse(key=account_messages.key_message(key))

    async def ListUsage(
        self, request: account_pb2.ListUsageRequest, context: RpcContext
    ) -> account_pb2.ListUsageResponse:
        """Usage records, newest first."""
        page = await self._desk.list_usage(
            caller.principal(),
            request.account,
            account_messages.usage_filter(request.filter),
            request.page_size,
            request.page_token,
        )
        return account_pb2.ListUsageResponse(
            records=map(account_messages.usage_message, page.entries), next_page_token=page.next_token
        )

    async def QueryUsage(
        self, request: account_pb2.QueryUsageRequest, context: RpcContext
    ) -> account_pb2.QueryUsageResponse:
        """Not done yet."""
        await self._desk.get_account(caller.principal(), request.account)
        raise errors.NotImplementedYetError("QueryUsage", "sums of usage")

    async def GetBill(
        self, request: account_pb2.GetBillRequest, context: RpcContext
    ) -> account_pb2.GetBillResponse:
        """What was charged in a span of time."""
        start, end = account_messages.span(request, "")
        bill = await self._desk.get_bill(caller.principal(), request.account, start, end)
        return account_pb2.GetBillResponse(
            lines=map(account_messages.bill_line, bill.lines), total_pico_usd=bill.total
        )
