"""The use cases of deployments: what an account can do with its own, and with nobody else's."""

import asyncio
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from services.common import logs
from services.common.adapters.version import DIGEST
from services.common.errors import InvalidFieldError, NotFoundError
from services.registry.bases.base_model import BaseModel
from services.registry.deployments import lifecycle, request_fields
from services.registry.deployments.book import DeploymentBook
from services.registry.deployments.changes import Changes, Follower
from services.registry.deployments.deployment import Adapter, Deployment, RepoExtras, State
from services.registry.deployments.list_query import ListQuery, Place
from services.registry.deployments.page_tokens import PageTokens, page_size
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest
from services.registry.deployments.rollout import Rollouts, token_unreadable
from services.registry.deployments.sealing import SealBrokenError, Sealer, token_purpose
from services.registry.fleet.route_log import Routes
from services.registry.storage.store import CreateKey, Store

_log = logs.get_logger(__name__)

_UID = re.compile(r"[0-9a-f]{32}")


class Deployments:
    """Creates, reads, updates, deletes and follows deployments on behalf of accounts."""

    def __init__(
        self,
        *,
        store: Store,
        book: DeploymentBook,
        rollouts: Rollouts,
        changes: Changes,
        base_models: Mapping[str, BaseModel],
        sealer: Sealer,
    ) -> None:
        self._store = store
        self._book = book
        self._rollouts = rollouts
        self._changes = changes
        self._base_models = base_models
        self._sealer = sealer

    async def resume(self, routes: Routes) -> None:
        """Fill the routes from the database, and take up what was under way when the registry stopped."""
        for deployment in await self._store.live():
            routes.set_deployment(deployment)
            if deployment.under_way:
                self._rollouts.start(deployment.uid)

    async def create(self, account: str, request: CreateRequest) -> Deployment:
        """Take the name and begin. Returns at once, in state INITIALIZING; a retry gets what it made.

        Raises InvalidFieldError or AlreadyExistsError.
        """
        request.check(self._base_models)
        uid = uuid.uuid4().hex
        adapter = Adapter(
            request.hub_repo,
            request.revision,
            self._seal(request.hub_token, account, uid),
            accept_base_name=request.accept_base_name,
            use_base_template=request.use_base_template,
        )
        now = self._book.now()
        new = Deployment(
            uid=uid,
            account=account,
            deployment_id=request.deployment_id,
            base_model=request.base_model or next(iter(self._base_models)),
            state=State.INITIALIZING,
            serving=adapter,
            status_message=lifecycle.checking(adapter),
            create_time=now,
            update_time=now,
        )
        key = CreateKey(request.idempotency_key, request.fingerprint()) if request.idempotency_key else None

        async def create() -> Deployment:
            made = await self._book.insert(new, key)
            if made.uid == uid:
                self._rollouts.start(uid)
            return made

        return await _carried_out(create())

    async def get(self, account: str, name: str) -> Deployment:
        """Raises NotFoundError, word for word the same for unknown and foreign names."""
        request_fields.check_name(name)
        owner, _, deployment_id = name.partition("/")
        found = await self._store.get(account, deployment_id) if owner == account else None
        if found is None:
            raise NotFoundError("deployment", name)
        return found

    async def list(
        self, account: str, query: ListQuery, *, asked_size: int = 0, page_token: str = ""
    ) -> tuple[Sequence[Deployment], str]:
        """A page of an account's deployments, and the token of the next one, which fits the same query only.

        Raises InvalidFieldError.
        """
        query.check()
        size = page_size(asked_size)
        tokens = PageTokens(self._sealer, ("ListDeployments", account, *query.words()))
        after = Place.parse(tokens.read(page_token))
        found = await self._store.page(account, query, after, size + 1)
        page = found[:size]
        return page, tokens.write(Place.of(page[-1]).text()) if len(found) > size else ""

    async def update(self, account: str, name: str, request: UpdateRequest) -> Deployment:
        """Bring another adapter version under the same name, or only keep another token for what serves.

        Raises InvalidFieldError, NotFoundError or StaleEtagError.
        """
        request.check()
        deployment = await self.get(account, name)

        def transition(now: Deployment) -> Deployment:
            _check_live(now, name)
            lifecycle.check_etag(now, request.etag)
            token = now.wanted.hub_token
            if request.hub_token is not None:
                token = self._seal(request.hub_token, account, now.uid)
            if request.is_of_the_token_alone and now.state is State.RUNNING and not now.under_way:
                return lifecycle.token_renewed(now, token)
            return lifecycle.updated(now, request.adapter(now.wanted, token))

        async def update() -> Deployment:
            changed = await self._book.change(deployment.uid, transition)
            if changed.under_way:
                self._rollouts.start(changed.uid)
            return changed

        return await _carried_out(update())

    async def delete(self, account: str, name: str, etag: str) -> Deployment:
        """Free the name, end what is under way, and forget the token. Raises NotFoundError or StaleEtagError."""
        deployment = await self.get(account, name)

        def transition(now: Deployment) -> Deployment:
            _check_live(now, name)
            lifecycle.check_etag(now, etag)
            return lifecycle.deleted(now)

        async def delete() -> Deployment:
            gone = await self._book.change(deployment.uid, transition)
            await self._rollouts.cancel(gone.uid)
            return gone

        return await _carried_out(delete())

    async def watch(
        self, account: str, name: str, show: Callable[[Deployment], Coroutine[Any, Any, None]]
    ) -> None:
        """Show a deployment as it is, then each change, until it is deleted.

        Raises NotFoundError, or UnavailableError once the registry stops.
        """
        uid = (await self.get(account, name)).uid
        follower: Follower = self._changes.follow(uid)
        try:
            present = await self._store.get_by_uid(uid)
            if present is not None:
                follower.put(present)
            while True:
                deployment = await follower.next()
                await show(deployment)
                if deployment.state is State.DELETED:
                    return
        finally:
            self._changes.unfollow(uid, follower)

    async def hub_token(self, uid: str, adapter_digest: str) -> str:
        """The Hub token that came with the version of a deployment, serving or candidate, that has this digest.

        Empty where none came with it, and for every other digest. Each release is logged.
        Raises InvalidFieldError, NotFoundError or PreconditionError.
        """
        if not _UID.fullmatch(uid):
            raise InvalidFieldError("deployment_uid", uid, "32 lower-case hex digits")
        if not DIGEST.fullmatch(adapter_digest):
            raise InvalidFieldError("adapter_digest", adapter_digest, "64 lower-case hex digits")
        deployment = await self._store.get_by_uid(uid)
        if deployment is None or deployment.state is State.DELETED:
            raise NotFoundError("deployment", uid)
        sealed = _token_of(deployment, adapter_digest)
        if sealed is None:
            _log.info("hub_token_none", deployment=deployment.name, uid=uid, digest=adapter_digest)
            return ""
        try:
            token = self._sealer.open(sealed, token_purpose(deployment.account, uid))
        except SealBrokenError:
            raise token_unreadable(deployment) from None
        _log.info("hub_token_released", deployment=deployment.name, uid=uid, digest=adapter_digest)
        return token

    async def repo_extras(self, sha256: str) -> RepoExtras:
        """What repos bring beside an adapter, by the digest that routes name. Raises InvalidFieldError or NotFoundError."""
        if not DIGEST.fullmatch(sha256):
            raise InvalidFieldError("sha256", sha256, "64 lower-case hex digits")
        found = await self._store.extras(sha256)
        if found is None:
            raise NotFoundError("repo_extras", sha256)
        return found

    def _seal(self, token: str, account: str, uid: str) -> bytes | None:
        return self._sealer.seal(token, token_purpose(account, uid)) if token else None


def _token_of(deployment: Deployment, digest: str) -> bytes | None:
    """Of two versions with the same content, the newer one's token."""
    versions = (deployment.candidate, deployment.serving)
    named = [one for one in versions if one and one.version and one.version.digest == digest]
    return next((one.hub_token for one in named if one.hub_token is not None), None)


def _check_live(deployment: Deployment, name: str) -> None:
    # Deleted between looking up its name and this.
    if deployment.state is State.DELETED:
        raise NotFoundError("deployment", name)


# Any: what a coroutine yields and is sent is asyncio's own business.
async def _carried_out(work: Coroutine[Any, Any, Deployment]) -> Deployment:
    """Await work that a caller who leaves must not cut in half: a row without its task."""
    return await asyncio.shield(asyncio.ensure_future(work))
