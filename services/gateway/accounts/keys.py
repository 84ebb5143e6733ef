"""API keys: 256 bits behind a prefix, of which only the SHA-256 is kept.

The bits are random, unless the caller gives an idempotency key. Then a repeat must return the first secret, which is
kept nowhere; so the secret is made from account and idempotency key by HMAC under a key that only this service has,
and nobody without it can tell it from random bits.
"""

import base64
import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common import errors
from services.common.clock import Clock
from services.gateway.accounts.accounts import Account, account_of
from services.gateway.accounts.paging import Place
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions

PREFIX = "lmx_"
# Four characters of 43 tell keys apart and leave 232 bits.
_SHOWN = len(PREFIX) + 4
_MAX_DESCRIPTION = 256


@dataclass(frozen=True)
class Key:
    """What may be shown of a key."""

    id: str
    account_id: str
    description: str
    prefix: str
    create_time: datetime
    revoke_time: datetime | None

    @property
    def place(self) -> Place:
        """Where it stands in the list of its account's keys."""
        return Place(time=self.create_time, id=self.id)


@dataclass(frozen=True)
class KeyHolder:
    """Whose key it is, and whether it still counts."""

    key: Key
    account: Account


def hash_of(secret: str) -> str:
    """What is stored of a key. It has 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_hash(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


class Keys:
    """The keys of all accounts."""

    def __init__(self, transactions: Transactions, clock: Clock, minting_key: bytes) -> None:
        """`minting_key` is a secret of this service, the same in all its replicas."""
        self._transactions = transactions
        self._clock = clock
        self._minting_key = minting_key

    async def create(self, account: str, description: str, idempotency_key: str = "") -> tuple[Key, str]:
        """Make a key for an existing account; returns it with its secret, which is kept nowhere.

        A repeat with the same idempotency key, where one is given, returns the first key and its secret.
        Raises InvalidFieldError and NotFoundError, and PreconditionError where the secret cannot be made again.
        """
        _check_description(description)
        secret = PREFIX + self._bits(account, idempotency_key)
        key = Key(
            id=uuid.uuid4().hex,
            account_id=account,
            description=description,
            prefix=secret[:_SHOWN],
            create_time=self._clock.now(),
            revoke_time=None,
        )

        async def work(connection: AsyncConnection) -> Key:
            found = await connection.execute(
                sa.select(tables.accounts.c.id).where(tables.accounts.c.id == account),
            )
            if found.one_or_none() is None:
                raise errors.NotFoundError("account", account)
            earlier = await _made_by(connection, account, idempotency_key)
            if earlier is not None:
                if earlier.hash != hash_of(secret):
                    raise errors.PreconditionError(
                        "KEY_NOT_REPEATABLE",
                        earlier.id,
                        "the first call made a key whose secret can no longer be shown; revoke it and make another",
                    )
                return _key_of(earlier)
            await connection.execute(
                tables.keys.insert().values(
                    id=key.id,
                    account_id=account,
                    hash=hash_of(secret),
                    prefix=key.prefix,
                    description=description,
                    create_time=key.create_time,
                    idempotency_key=idempotency_key or None,
                ),
            )
            return key

        return await self._transactions.run(work), secret

    def _bits(self, account: str, idempotency_key: str) -> str:
        """256 bits as text."""
        if idempotency_key:
            message = f"loramux key\0{account}\0{idempotency_key}".encode()
            bits = hmac.digest(self._minting_key, message, "sha256")
        else:
            bits = secrets.token_bytes(32)
        return base64.urlsafe_b64encode(bits).rstrip(b"=").decode()

    async def page(self, account: str, after: Place | None, size: int) -> list[Key]:
        """At most `size` keys of an account behind `after`, oldest first, revoked ones among them."""
        columns = tables.keys.c
        statement = (
            sa.select(tables.keys)
            .where(columns.account_id == account)
            .order_by(columns.create_time, columns.id)
            .limit(size)
        )
        if after is not None:
            statement = statement.where(
                sa.tuple_(columns.create_time, columns.id)
                > sa.tuple_(sa.literal(after.time, tables.UtcTime), sa.literal(after.id)),
            )

        async def work(connection: AsyncConnection) -> list[Key]:
            return [_key_of(row) for row in await connection.execute(statement)]

        return await self._transactions.run(work)

    async def revoke(self, key_id: str, account: str | None) -> Key:
        """End a key for good; a revoked one stays as it is. With `account`, only that account's keys.

        Raises NotFoundError, the same for an unknown key and for another account's.
        """
        columns = tables.keys.c

        async def work(connection: AsyncConnection) -> Key:
            statement = sa.select(tables.keys).where(columns.id == key_id)
            if account is not None:
                statement = statement.where(columns.account_id == account)
            if (await connection.execute(statement)).one_or_none() is None:
                raise errors.NotFoundError("key", key_id)
            await connection.execute(
                tables.keys.update()
                .where(columns.id == key_id, columns.revoke_time.is_(None))
                .values(revoke_time=self._clock.now()),
            )
            return _key_of((await connection.execute(statement)).one())

        return await self._transactions.run(work)

    async def find(self, key_hash: str) -> KeyHolder | None:
        """Whose key has this hash."""
        columns = tables.keys.c

        async def work(connection: AsyncConnection) -> KeyHolder | None:
            row = (
                await connection.execute(sa.select(tables.keys).where(columns.hash == key_hash))
            ).one_or_none()
            if row is None or not same_hash(row.hash, key_hash):
                return None
            account = await connection.execute(
                sa.select(tables.accounts).where(tables.accounts.c.id == row.account_id),
            )
            return KeyHolder(key=_key_of(row), account=account_of(account.one()))

        return await self._transactions.run(work)


async def _made_by(
    connection: AsyncConnection, account: str, idempotency_key: str
) -> sa.Row[tuple[object, ...]] | None:
    if not idempotency_key:
        return None
    columns = tables.keys.c
    statement = sa.select(tables.keys).where(
        columns.account_id == account, columns.idempotency_key == idempotency_key
    )
    return (await connection.execute(statement)).one_or_none()


def _check_description(description: str) -> None:
    size = len(description.encode(errors="replace"))
    if size > _MAX_DESCRIPTION or not description.isprintable():
        bound = f"at most {_MAX_DESCRIPTION} bytes, without control characters"
        raise errors.InvalidFieldError("description", description, bound)


def _key_of(row: sa.Row[tuple[object, ...]]) -> Key:
    return Key(
        id=row.id,
        account_id=row.account_id,
        description=row.description,
        prefix=row.prefix,
        create_time=row.create_time,
        revoke_time=row.revoke_time,
    )
