"""The Generate use case: one request from its caller to its usage record, in the nine steps of the design."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.common import errors, logs
from services.common.clock import Clock
from services.gateway import placement
from services.gateway.accounts.auth import Principal
from services.gateway.admission import Admission, Admissions
from services.gateway.answer import Answer, Chunk, Event, Started, Summary
from services.gateway.billing.rules import charge
from services.gateway.job import Job
from services.gateway.limits.limiter import Limits
from services.gateway.prompts.tokenizer_cache import ExtrasCache, TokenizerCache
from services.gateway.request import GenerateRequest, Prompt
from services.gateway.routes import RouteTable, Target, Worker
from services.gateway.validate import (
    check_prompt,
    check_request,
    check_stops_against,
    complete_sampling,
    with_end_tokens,
)

Deliver = Callable[[Chunk], Awaitable[None]]
"""Sends a chunk to the client; waits while the client does not read."""

_log = logs.get_logger(__name__)


class Stream(Protocol):
    """What a worker says about one request; see `worker_client.WorkerStream`."""

    async def read(self) -> Event:
        """The next event; nothing follows a summary."""
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


class Generate:
    """Runs requests for whoever has been let in."""

    def __init__(
        self,
        *,
        routes: RouteTable,
        tokenizers: TokenizerCache,
        extras: ExtrasCache,
        admissions: Admissions,
        workers: Workers,
        limits: Limits,
        clock: Clock,
    ) -> None:
        """`limits` are the operator's defaults."""
        self._routes = routes
        self._tokenizers = tokenizers
        self._extras = extras
        self._admissions = admissions
        self._workers = workers
        self._limits = limits
        self._clock = clock

    async def run(
        self,
        principal: Principal,
        request: GenerateRequest,
        request_id: str,
        deliver: Deliver,
    ) -> Answer:
        """Answer one request (steps 1 and 2 are the edge's): chunks through `deliver`, then what it came to.

        Raises ServiceError, a worker's own among them. Once it returns or raises, the request holds nothing and its
        usage record is written.
        """
        arrived = self._clock.monotonic()
        account = principal.member()
        # 3: what for.
        prompt = check_request(request)
        target = self._routes.resolve(request.model, account)
        job = await self._prepare(request, prompt, request_id, principal, target)
        # A request that nobody can run costs no write.
        worker = self._some_worker(job)
        limits = principal.limits.over(self._limits)
        # 4: may it run; 9: however it ends, settle and release.
        async with self._admissions.admit(job, limits) as admission:
            summary = await self._run_somewhere(worker, job, admission, deliver)
            admission.completed(summary)
        return self._answer(admission, summary, arrived)

    async def _prepare(
        self,
        request: GenerateRequest,
        prompt: Prompt,
        request_id: str,
        principal: Principal,
        target: Target,
    ) -> Job:
        """Encode the prompt, check what depends on the model, fill in what is not given."""
        encoder = await self._tokenizers.encoder(target.base)
        extras = await self._extras.get(target.extras_sha256)
        ids = await encoder.encode(prompt, extras, account=principal.member())
        context = target.context_length
        # The model's rows; the tokenizer may leave some unused, which an adapter may have trained.
        vocabulary = target.base.vocabulary_size or encoder.vocabulary
        check_prompt(prompt, ids, context=context, vocabulary=vocabulary)
        check_stops_against(encoder.special_tokens, request.sampling)
        sampling, max_tokens = complete_sampling(
            request.sampling,
            room=context - len(ids),
            vocabulary=vocabulary,
        )
        sampling = with_end_tokens(sampling, extras.end_token_ids)
        return Job(
            request_id=request_id,
            client_request_id=request.client_request_id,
            account=principal.member(),
            key=principal.key,
            target=target,
            prompt=ids,
            max_tokens=max_tokens,
            sampling=sampling,
        )

    def _some_worker(self, job: Job) -> Worker:
        """5: choose a worker. Raises UnavailableError where none takes requests."""
        worker = self._choose(job)
        if worker is None:
            raise errors.UnavailableError(
                "NO_WORKER",
                f"no worker of {job.target.base.name} takes requests now",
                retry_after=1.0,
            )
        return worker

    async def _run_somewhere(
        self, worker: Worker, job: Job, admission: Admission, deliver: Deliver
    ) -> Summary:
        """On `worker`; once more elsewhere where that one fails before the client has been sent anything."""
        try:
            return await self._run_on(worker, job, admission, deliver)
        except errors.UnavailableError as error:
            other = self._choose(job, exclude=worker.id)
            if admission.started or other is None:
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
        admission.begun(worker.id)
        async with self._workers.generate(worker, job) as stream:
            while not isinstance(event := await stream.read(), Summary):
                match event:
                    case Started():
                        admission.prompt_computed(event.cached_tokens)
                    case Chunk():
                        admission.produced(len(event.token_ids))
                        await self._admissions.debit(admission)
                        await deliver(event)
            return event

    def _answer(self, admission: Admission, summary: Summary, arrived: float) -> Answer:
        job, opened = admission.job, admission.opened
        if opened is None:
            raise AssertionError("an admission ended well without a reservation")
        first = admission.first_chunk_at
        adapter = job.target.adapter
        return Answer(
            request_id=job.request_id,
            client_request_id=job.client_request_id,
            model=job.target.model,
            version_digest="" if adapter is None else adapter.digest,
            choices=summary.choices,
            prompt_tokens=len(job.prompt),
            cached_tokens=admission.cached_tokens,
            completion_tokens=admission.completion_tokens,
            price=opened.price,
            total=charge(opened.price, opened.prompt_tokens, admission.ending(admission.start_time)) or 0,
            engine=summary.engine,
            mode=summary.mode,
            first_chunk_seconds=None if first is None else max(0.0, first - arrived),
            total_seconds=max(0.0, self._clock.monotonic() - arrived),
        )
