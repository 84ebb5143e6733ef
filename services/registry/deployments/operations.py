"""The use cases of deployments: what an account can do with its own, and with nobody else's."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from services.common.errors import NotFoundError
from services.registry.bases.base_model import BaseModel
from services.registry.deployments import lifecycle, request_fields
from services.registry.deployments.book import DeploymentBook
from services.registry.deployments.changes import Changes, Follower
from services.registry.deployments.deployment import Adapter, Deployment, State
from services.registry.deployments.page_tokens import PageTokens, page_size
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest
from services.registry.deployments.rollout import Rollouts, token_unreadable
from services.registry.deployments.sealing import SealBrokenError, Sealer, token_purpose
from services.registry.fleet.route_log import Routes
from services.registry.storage.store import RequestKey, Store


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
        adapter = Adapter(request.hub_repo, request.revision, self._seal(request.hub_token, account, uid))
        now = self._book.now()
        new = Deployment(
            uid=uid,
            account=account,
            deployment_id=request.deployment_id,
            base_model=request.base_model or next(iter(self._base_models)),
            state=State.INITIALIZING,
            adapter=adapter,
            status_message=lifecycle.checking(adapter),
            create_time=now,
            update_time=now,
        )
        key = RequestKey(request.request_id, request.fingerprint()) if request.request_id else None

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

    async def list(self, account: str, asked_size: int, page_token: str) -> tuple[Sequence[Deployment], str]:
        """A page of an account's deployments by id, and the token of the next one. Raises InvalidFieldError."""
        size = page_size(asked_size)
        tokens = PageTokens(self._sealer, ("ListDeployments", account))
        found = await self._store.page(account, tokens.read(page_token), size + 1)
        page = found[:size]
        return page, tokens.write(page[-1].deployment_id) if len(found) > size else ""

    async def update(self, account: str, name: str, request: UpdateRequest) -> Deployment:
        """Bring another adapter version under the same name.

        Raises InvalidFieldError, NotFoundError or StaleEtagError.
        """
        request.check()
        deployment = await self.get(account, name)

        def transition(now: Deployment) -> Deployment:
            _check_live(now, name)
            lifecycle.check_etag(now, request.etag)
            token = now.pending.hub_token
            if request.hub_token is not None:
                token = self._seal(request.hub_token, account, now.uid)
            adapter = Adapter(request.hub_repo or now.pending.hub_repo, request.revision, token)
            return lifecycle.updated(now, adapter)

        async def update() -> Deployment:
            changed = await self._book.change(deployment.uid, transition)
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

    async def hub_token(self, uid: str) -> str:
        """The Hub token that a deployment's download needs; empty where none is stored.

        Raises NotFoundError or PreconditionError.
        """
        deployment = await self._store.get_by_uid(uid)
        if deployment is None or deployment.state is State.DELETED:
            raise NotFoundError("deployment", uid)
        sealed = deployment.pending.hub_token
        if sealed is None:
            return ""
        try:
            return self._sealer.open(sealed, token_purpose(deployment.account, uid))
        except SealBrokenError:
            raise token_unreadable(deployment) from None

    def _seal(self, token: str, account: str, uid: str) -> bytes | None:
        return self._sealer.seal(token, token_purpose(account, uid)) if token else None


def _check_live(deployment: Deployment, name: str) -> None:
    # Deleted between looking up its name and this.
    if deployment.state is State.DELETED:
        raise NotFoundError("deployment", name)


# Any: what a coroutine yields and is sent is asyncio's own business.
async def _carried_out(work: Coroutine[Any, Any, Deployment]) -> Deployment:
    """Await work that a caller who leaves must not cut in half: a row without its task."""
    return await asyncio.shield(asyncio.ensure_future(work))
