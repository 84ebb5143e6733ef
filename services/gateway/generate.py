"""The Generate use case: one request from key to usage record, in the nine steps of the design."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from services.common import errors, logs
from services.gateway import placement
from services.gateway.accounts.auth import Authenticator
from services.gateway.admission import Admission, Admissions
from services.gateway.billing.money import TokenPrice
from services.gateway.billing.rules import charge
from services.gateway.job import Choice, Job, Produced, Summary
from services.gateway.limits.limiter import Limits
from services.gateway.prompts.tokenizer_cache import TokenizerCache
from services.gateway.request import GenerateRequest, Prompt
from services.gateway.routes import RouteTable, Target, Worker
from services.gateway.upstream.relayed import RelayedError
from services.gateway.validate import check_prompt, check_request, complete_sampling

Deliver = Callable[[object], Awaitable[None]]
"""Sends a chunk to the client; waits while the client does not read."""

_log = logs.get_logger(__name__)


class Stream(Protocol):
    """What a worker says about one request; see `worker_client.WorkerStream`."""

    async def read(self) -> Produced | Summary:
        """The next chunk, or the summary."""
        ...


class Workers(Protocol):
    """What keeps this module free of gRPC; see `worker_client.WorkerClient`."""

    @property
    def in_flight(self) -> Mapping[str, int]:
        """This gateway's requests in flight by worker id."""
        ...

    def generate(self, worker: Worker, job: Job) -> AbstractAsyncContextManager[Stream]:
        """Run a job on a worker for as long as the context lasts."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a request came to, for its completion message."""

    request_id: str
    model: str
    choices: tuple[Choice, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    price: TokenPrice
    total: int
    """Pico-USD."""


class Generate:
    """Runs requests for whoever has a key."""

    def __init__(
        self,
        *,
        auth: Authenticator,
        routes: RouteTable,
        tokenizers: TokenizerCache,
        admissions: Admissions,
        workers: Workers,
        limits: Limits,
    ) -> None:
        """`limits` are the operator's defaults."""
        self._auth = auth
        self._routes = routes
        self._tokenizers = tokenizers
        self._admissions = admissions
        self._workers = workers
        self._limits = limits

    async def run(
        self,
        authorization: str,
        request: GenerateRequest,
        request_id: str,
        deliver: Deliver,
    ) -> Answer:
        """Answer one request (step 1 is the servicer's): chunks through `deliver`, then what it came to.

        Raises ServiceError, or RelayedError with a status that a worker answered with. Once it returns or
        raises, the request holds nothing and its usage record is written.
        """
        # 2: who asks.
        principal = await self._auth.authenticate(authorization)
        account = principal.member()
        # 3: what for.
        prompt = check_request(request)
        target = self._routes.resolve(request.model, account)
        job = await self._prepare(request, prompt, request_id, account, target)
        limits = principal.limits.over(self._limits)
        # 4: may it run; 9: however it ends, settle and release.
        async with self._admissions.admit(job, limits) as admission:
            summary = await self._run_somewhere(job, admission, deliver)
            admission.completed(summary)
        return _answer(admission, summary)

    async def _prepare(
        self,
        request: GenerateRequest,
        prompt: Prompt,
        request_id: str,
        account: str,
        target: Target,
    ) -> Job:
        """Encode the prompt, check what depends on the model, fill in what is not given."""
        encoder = await self._tokenizers.encoder(target.base)
        ids = await encoder.encode(prompt)
        context = target.base.context_length
        check_prompt(prompt, ids, context=context, vocabulary=encoder.vocabulary)
        sampling, max_tokens = complete_sampling(
            request.sampling,
            room=context - len(ids),
            vocabulary=encoder.vocabulary,
        )
        return Job(
            request_id=request_id,
            client_request_id=request.client_request_id,
            account=account,
            target=target,
            prompt=ids,
            max_tokens=max_tokens,
            sampling=sampling,
        )

    async def _run_somewhere(self, job: Job, admission: Admission, deliver: Deliver) -> Summary:
        """5: choose a worker; once more where the first one fails before it has produced anything."""
        worker = self._choose(job)
        if worker is None:
            raise errors.UnavailableError(
                "NO_WORKER",
                f"no worker of {job.target.base.name} takes requests now",
                retry_after=1.0,
            )
        try:
            return await self._run_on(worker, job, admission, deliver)
        except (errors.UnavailableError, RelayedError) as error:
            other = self._choose(job, exclude=worker.id)
            if admission.started or other is None or not _may_succeed_elsewhere(error):
                raise
            _log.warning("request_moved", from_worker=worker.id, to_worker=other.id, error=str(error))
        return await self._run_on(other, job, admission, deliver)

    def _choose(self, job: Job, exclude: str = "") -> Worker | None:
        adapter = job.target.adapter
        return placement.choose(
            self._routes.workers(),
            base_model=job.target.base.name,
            adapter_digest=None if adapter is None else adapter.digest,
            in_flight=self._workers.in_flight,
            exclude=(exclude,),
        )

    async def _run_on(
        self,
        worker: Worker,
        job: Job,
        admission: Admission,
        deliver: Deliver,
    ) -> Summary:
        """6 and 7: the worker runs it; 8: each chunk goes to the client as it comes."""
        async with self._workers.generate(worker, job) as stream:
            while isinstance(event := await stream.read(), Produced):
                admission.produced(event.tokens)
                await deliver(event.chunk)
            return event


def _may_succeed_elsewhere(error: errors.UnavailableError | RelayedError) -> bool:
    return error.unavailable if isinstance(error, RelayedError) else True


def _answer(admission: Admission, summary: Summary) -> Answer:
    job, opened = admission.job, admission.opened
    if opened is None:
        raise AssertionError("an admission ended well without a reservation")
    ending = admission.ending(admission.start_time)
    return Answer(
        request_id=job.request_id,
        model=job.target.model,
        choices=summary.choices,
        prompt_tokens=len(job.prompt),
        cached_tokens=admission.cached_tokens,
        completion_tokens=admission.completion_tokens,
        price=opened.price,
        total=charge(opened.price, opened.prompt_tokens, ending) or 0,
    )
