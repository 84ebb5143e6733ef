"""What callers do about accounts, keys, usage and bills, and who may: the one use case behind every edge."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common import errors
from services.gateway.accounts.accounts import Account, AccountLimits, Accounts
from services.gateway.accounts.auth import Authenticator, Principal
from services.gateway.accounts.keys import Key, Keys
from services.gateway.accounts.names import (
    check_account_name,
    check_idempotency_key,
    check_known_account,
    check_known_key,
)
from services.gateway.accounts.paging import Page, page_size, page_token, place_of
from services.gateway.billing.ledger import Balance, Ledger
from services.gateway.billing.usage import BillLine, UsageFilter, UsageRecord, UsageRecords, check_span
from services.gateway.limits.limiter import Limits


@dataclass(frozen=True)
class AccountView:
    """An account as it is shown."""

    account: Account
    effective_limits: Limits
    """Its own, over the operator's."""
    balance: Balance


@dataclass(frozen=True)
class Bill:
    """What was charged in a span of time."""

    lines: Sequence[BillLine]

    @property
    def total(self) -> int:
        """Pico-USD."""
        return sum(line.total for line in self.lines)


class AccountDesk:
    """Accounts, keys, usage and bills, for whoever calls.

    Every method may raise InvalidFieldError, and NotFoundError, the same for unknown and foreign accounts; what is
    the operator's raises PermissionDeniedError for others.

    `asked` names the account that a call is about; empty means the caller's own, and the operator has none.
    """

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

    async def create_account(
        self,
        principal: Principal,
        account_id: str,
        limits: AccountLimits,
        credit: int,
        idempotency_key: str,
    ) -> AccountView:
        """Operator: open an account, with a first credit in pico-USD. Raises AlreadyExistsError."""
        principal.operator()
        check_account_name(account_id)
        check_idempotency_key(idempotency_key)
        return await self._view(await self._accounts.create(account_id, limits, credit, idempotency_key))

    async def get_account(self, principal: Principal, asked: str) -> AccountView:
        """Limits and balance."""
        return await self._view(await self._account(principal, asked))

    async def grant_credit(
        self, principal: Principal, asked: str, amount: int, idempotency_key: str
    ) -> AccountView:
        """Operator: add pico-USD, once for each idempotency key."""
        principal.operator()
        if amount <= 0:
            raise errors.InvalidFieldError("amount_pico_usd", amount, "above 0")
        # Without one, a retry would grant twice.
        check_idempotency_key(idempotency_key, required=True)
        check_known_account(asked)
        account = await self._accounts.get(asked)
        return self._viewed(account, await self._ledger.grant(account.id, amount, idempotency_key))

    async def create_key(
        self, principal: Principal, asked: str, description: str, idempotency_key: str
    ) -> tuple[Key, str]:
        """A new key, with its secret."""
        check_idempotency_key(idempotency_key)
        account = await self._account(principal, asked)
        return await self._keys.create(account.id, description, idempotency_key)

    async def list_keys(self, principal: Principal, asked: str, size: int, token: str) -> Page[Key]:
        """Keys, oldest first."""
        account = await self._account(principal, asked)
        listing = ("keys", account.id)
        size = page_size(size)
        found = await self._keys.page(account.id, place_of(token, listing), size + 1)
        more = page_token(listing, found[size - 1].place) if len(found) > size else ""
        return Page(found[:size], more)

    async def revoke_key(self, principal: Principal, name: str) -> Key:
        """End a key: here at once, in other gateways within 5 s."""
        check_known_key(name)
        key = await self._keys.revoke(name, None if principal.is_operator else principal.account)
        self._auth.forget(key.id)
        return key

    async def list_usage(
        self, principal: Principal, asked: str, only: UsageFilter, size: int, token: str
    ) -> Page[UsageRecord]:
        """Usage records, newest first."""
        account = await self._account(principal, asked)
        only.check()
        listing = ("usage", account.id, *only.words)
        size = page_size(size)
        found = await self._records.page(account.id, only, place_of(token, listing), size + 1)
        more = page_token(listing, found[size - 1].place) if len(found) > size else ""
        return Page(found[:size], more)

    async def get_bill(
        self, principal: Principal, asked: str, start: datetime | None, end: datetime | None
    ) -> Bill:
        """What was charged from `start` on and before `end`; None leaves that side open."""
        account = await self._account(principal, asked)
        check_span(start, end, "")
        return Bill(await self._records.bill(account.id, start, end))

    async def _account(self, principal: Principal, asked: str) -> Account:
        if principal.is_operator:
            if not asked:
                raise errors.InvalidFieldError("account", "", "an account's name; the operator has none")
        elif asked not in ("", principal.account):
            raise errors.NotFoundError("account", asked)
        check_known_account(asked or principal.account)
        return await self._accounts.get(asked or principal.account)

    async def _view(self, account: Account) -> AccountView:
        return self._viewed(account, await self._ledger.balance(account.id))

    def _viewed(self, account: Account, balance: Balance) -> AccountView:
        return AccountView(account, account.limits.over(self._defaults), balance)
