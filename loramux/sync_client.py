"""The sync client, on grpc's own sync stubs: no event loop, usable from any thread."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from loramux import connection, errors, request_messages, waiting
from loramux.account.v1 import account_pb2, account_pb2_grpc, key_pb2, usage_pb2
from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from loramux.inference.v1 import inference_pb2_grpc
from loramux.sync_streams import SyncDeploymentWatch, SyncGenerateStream

Request = TypeVar("Request")
Response = TypeVar("Response")


class SyncClient:
    """Speaks to a gateway. Use it as `with`, or `close` it. The methods are those of `Client`.

    Every method raises a subclass of `loramux.errors.LoramuxError` when the call fails. Calls that are safe
    to repeat are repeated where the service is unavailable; see `loramux.retry`. Deployments, accounts, keys,
    usage records and bills are the messages of `loramux.deployment.v1` and `loramux.account.v1`.
    """

    def __init__(
        self,
        target: str | None = None,
        api_key: str | None = None,
        *,
        tls: bool | None = None,
        timeout: float = 60.0,
    ) -> None:
        """`target` is host:port, http://host[:port] or https://host[:port]; `tls` overrides the scheme.

        What is not given comes from LORAMUX_TARGET and LORAMUX_API_KEY, then from the `loramux up` that runs
        on this machine. `timeout` is in seconds and holds for calls other than streams.
        Raises MissingSettingError or ValueError.
        """
        self._connection = connection.resolve(target, api_key, tls=tls)
        self._timeout = timeout
        self._opened: grpc.Channel | None = None
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs and close the connection. A later call opens another."""
        with self._opening:
            channel, self._opened = self._opened, None
        if channel is not None:
            channel.close()

    def generate(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[request_messages.Message] | None = None,
        token_ids: Sequence[int] | None = None,
        client_request_id: str = "",
        timeout: float | None = None,
        **sampling: Unpack[request_messages.Sampling],
    ) -> SyncGenerateStream:
        """Start an answer of a base model or a deployment (`account/name`).

        Exactly one of `prompt` (plain text), `messages` (chat, `{"role": ..., "content": ...}`) and
        `token_ids`. `client_request_id` is the caller's own and appears in usage records. `timeout` is in seconds,
        for the whole stream. Raises ValueError or TypeError on arguments that have no form on the wire.
        """
        request = request_messages.generate(
            model,
            prompt,
            messages=messages,
            token_ids=token_ids,
            client_request_id=client_request_id,
            sampling=sampling,
        )
        stub = inference_pb2_grpc.InferenceServiceStub(self._channel())
        return SyncGenerateStream(stub.Generate(request, timeout=timeout, metadata=self._connection.metadata))

    def list_base_models(self) -> list[deployment_pb2.BaseModel]:
        """The base models that adapters can be deployed on, with their prices."""
        found: list[deployment_pb2.BaseModel] = []
        request = deployment_pb2.ListBaseModelsRequest()
        while True:
            response = self._call(self._deployments().ListBaseModels, request)
            found += response.base_models
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    def create_deployment(
        self,
        deployment_id: str,
        hub_repo: str,
        *,
        revision: str = "",
        hub_token: str = "",
        base_model: str = "",
        accept_base_name: bool = False,
        use_base_template: bool = False,
        idempotency_key: str = "",
    ) -> deployment_pb2.Deployment:
        """Take a name for an adapter on the Hub; returns at once. `wait_until_running` tells how it went.

        An empty `revision` means the default branch; `base_model` may stay empty where there is one only.
        `hub_token` is for private and gated repositories. `accept_base_name`: the adapter is for `base_model`, although
        its config names another base, or a folder. `use_base_template`: serve with the base's chat template and end
        tokens, whatever the repository has. A call with the `idempotency_key` of an earlier one returns what that
        one made.
        """
        request = request_messages.create_deployment(
            deployment_id,
            hub_repo,
            revision,
            hub_token,
            base_model=base_model,
            accept_base_name=accept_base_name,
            use_base_template=use_base_template,
            idempotency_key=idempotency_key,
        )
        return self._call(self._deployments().CreateDeployment, request).deployment

    def get_deployment(self, name: str) -> deployment_pb2.Deployment:
        """By `account/name`."""
        request = deployment_pb2.GetDeploymentRequest(name=name)
        return self._call(self._deployments().GetDeployment, request).deployment

    def list_deployments(self, *, page_size: int = 0) -> Iterator[deployment_pb2.Deployment]:
        """All of the account's, fetched page by page; 0 leaves the page's size to the server."""
        request = deployment_pb2.ListDeploymentsRequest(page_size=page_size)
        while True:
            response = self._call(self._deployments().ListDeployments, request)
            yield from response.deployments
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def update_deployment(
        self,
        name: str,
        *,
        hub_repo: str | None = None,
        revision: str | None = None,
        hub_token: str | None = None,
        accept_base_name: bool | None = None,
        use_base_template: bool | None = None,
        etag: str = "",
    ) -> deployment_pb2.Deployment:
        """Bring a new adapter version under the name; the old one serves until the new one is loaded.

        What is None stays as it is; an empty `revision` means the default branch, and so does None with another
        `hub_repo`; an empty `hub_token` removes the stored one. `etag`: change only what was read, else StaleEtagError.
        """
        request = deployment_pb2.UpdateDeploymentRequest(
            name=name,
            hub_repo=hub_repo,
            revision=revision,
            hub_token=hub_token,
            accept_base_name=accept_base_name,
            use_base_template=use_base_template,
            etag=etag,
        )
        return self._call(self._deployments().UpdateDeployment, request).deployment

    def delete_deployment(self, name: str, *, etag: str = "") -> deployment_pb2.Deployment:
        """Give the name back."""
        request = deployment_pb2.DeleteDeploymentRequest(name=name, etag=etag)
        return self._call(self._deployments().DeleteDeployment, request).deployment

    def watch_deployment(self, name: str, *, timeout: float | None = None) -> SyncDeploymentWatch:
        """The deployment as it is, then at each change, until it is deleted. `timeout` in seconds."""
        request = deployment_pb2.WatchDeploymentRequest(name=name)
        call = self._deployments().WatchDeployment(
            request, timeout=timeout, metadata=self._connection.metadata
        )
        return SyncDeploymentWatch(call)

    def wait_until_running(
        self,
        name: str,
        *,
        timeout: float | None = None,
        on_change: Callable[[deployment_pb2.Deployment], object] = lambda _deployment: None,
    ) -> deployment_pb2.Deployment:
        """Wait until the deployment serves and no update of it is under way, through a gateway's restart too.

        `on_change` is told every state on the way.
        Raises DeploymentFailedError when it never will, DeadlineExceededError after `timeout` seconds.
        """
        wait = waiting.Wait(name, timeout)
        while True:
            try:
                for deployment in self.watch_deployment(name, timeout=wait.seconds_left()):
                    on_change(deployment)
                    if wait.is_over(deployment):
                        return deployment
            except errors.UnavailableError:
                if not wait.may_watch_again():
                    raise
            else:
                raise wait.ended_early()

    def get_account(self, account: str = "") -> account_pb2.Account:
        """The caller's own; any account by name for the operator."""
        request = account_pb2.GetAccountRequest(account=account)
        return self._call(self._accounts().GetAccount, request).account

    def create_key(
        self, description: str = "", *, account: str = "", idempotency_key: str = ""
    ) -> account_pb2.CreateKeyResponse:
        """A new API key with its `secret`; a call with the `idempotency_key` of an earlier one returns that key.

        Another account's needs the operator's key.
        """
        request = request_messages.create_key(account, description, idempotency_key)
        return self._call(self._accounts().CreateKey, request)

    def list_keys(self, *, account: str = "") -> Iterator[key_pb2.Key]:
        """All keys of the account, revoked ones too; never their secrets."""
        request = account_pb2.ListKeysRequest(account=account)
        while True:
            response = self._call(self._accounts().ListKeys, request)
            yield from response.keys
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def revoke_key(self, name: str) -> key_pb2.Key:
        """By name, as lists show it. Every gateway refuses the key within 5 seconds."""
        request = account_pb2.RevokeKeyRequest(name=name)
        return self._call(self._accounts().RevokeKey, request).key

    def list_usage(
        self, *, model: str = "", account: str = "", page_size: int = 0
    ) -> Iterator[usage_pb2.UsageRecord]:
        """Usage records, newest first, fetched page by page; only one model's where named."""
        request = request_messages.list_usage(account, model, page_size)
        while True:
            response = self._call(self._accounts().ListUsage, request)
            yield from response.records
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def get_bill(
        self, *, account: str = "", start: datetime | None = None, end: datetime | None = None
    ) -> account_pb2.GetBillResponse:
        """Usage summed by model and price, from `start` (None: the account's beginning) to `end` (None: now)."""
        return self._call(self._accounts().GetBill, request_messages.get_bill(account, start, end))

    def create_account(
        self,
        account_id: str,
        *,
        credit_pico_usd: int = 0,
        max_in_flight: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        idempotency_key: str = "",
    ) -> account_pb2.Account:
        """Operator. A limit that is None takes the operator's default; `idempotency_key` as for keys."""
        request = request_messages.create_account(
            account_id,
            credit_pico_usd,
            max_in_flight=max_in_flight,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            idempotency_key=idempotency_key,
        )
        return self._call(self._accounts().CreateAccount, request).account

    def grant_credit(
        self, account: str, amount_pico_usd: int, *, idempotency_key: str = ""
    ) -> account_pb2.Account:
        """Operator. Adds to the account's credit, once for each `idempotency_key`.

        Give one to make a call that may have failed again: without one, only grpc's own retries add nothing twice.
        """
        request = request_messages.grant_credit(account, amount_pico_usd, idempotency_key)
        return self._call(self._accounts().GrantCredit, request).account

    def _channel(self) -> grpc.Channel:
        with self._opening:
            if self._opened is None:
                where = self._connection
                if where.tls:
                    self._opened = grpc.secure_channel(
                        where.address, grpc.ssl_channel_credentials(), options=where.options
                    )
                else:
                    self._opened = grpc.insecure_channel(where.address, options=where.options)
            return self._opened

    def _deployments(self) -> "deployment_pb2_grpc.DeploymentServiceStub":
        return deployment_pb2_grpc.DeploymentServiceStub(self._channel())

    def _accounts(self) -> "account_pb2_grpc.AccountServiceStub":
        return account_pb2_grpc.AccountServiceStub(self._channel())

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request) -> Response:
        try:
            return method(request, timeout=self._timeout, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error
