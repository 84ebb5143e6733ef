"""What a request holds while it runs: a place in its pool and a reservation. And that both end with it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from services.common import logs
from services.common.clock import Clock
from services.common.shielding import to_the_end
from services.gateway.answer import Summary
from services.gateway.billing.ledger import Ledger
from services.gateway.billing.prices import PriceBook
from services.gateway.billing.rules import Ending, OpenRequest, Outcome, charge
from services.gateway.job import Job
from services.gateway.limits.limiter import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    Lease,
    Limiter,
    Limits,
)

# Of a choice's max_tokens, how many are taken from the token rate at admission. A request that asks for the whole context
# and uses little of it would otherwise fill the rate of an account that has spent nothing. The rest is debited as it is
# produced: see Limiter.
RESERVED_COMPLETION_TOKENS = 1_024
DEBITED_TOKENS = 64
"""How many are produced from one debit to the next."""

_log = logs.get_logger(__name__)


@dataclass
class Admission:
    """A request that was let in, and what it has come to so far."""

    job: Job
    start_time: datetime
    clock: Clock
    outcome: Outcome = Outcome.FAILED
    """How it will be closed, unless something else happens first."""
    started: bool = False
    """Whether the client has been sent anything, after which no other worker can take over."""
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_prompt_computed: bool = False
    worker_id: str = ""
    """That runs it, or ran it last."""
    first_token_time: datetime | None = None
    first_chunk_at: float | None = None
    """By the monotonic clock."""
    finish_reasons: tuple[int, ...] = ()
    lease: Lease | None = None
    debited_tokens: int = 0
    """Taken from the token rate so far."""
    opened: OpenRequest | None = None
    """The reservation; None until it is written."""

    def begun(self, worker_id: str) -> None:
        """A worker is asked to run it."""
        self.worker_id = worker_id

    def prompt_computed(self, cached_tokens: int) -> None:
        """From here on the prompt is charged; so many of its tokens were in the worker's prefix cache."""
        self.is_prompt_computed = True
        self.cached_tokens = min(cached_tokens, len(self.job.prompt))

    def produced(self, tokens: int) -> None:
        """Count tokens that the worker has produced; never more than were asked for and set aside."""
        if not self.started:
            self.first_token_time, self.first_chunk_at = self.clock.now(), self.clock.monotonic()
        self.started = True
        self.completion_tokens = min(self.completion_tokens + tokens, self.job.max_tokens)

    def completed(self, summary: Summary) -> None:
        """The worker's own count is the one to charge; it may include tokens that were not sent."""
        self.outcome = Outcome.COMPLETED
        self.is_prompt_computed = True
        self.completion_tokens = min(summary.completion_tokens, self.job.max_tokens)
        self.cached_tokens = min(summary.cached_tokens, len(self.job.prompt))
        self.finish_reasons = tuple(choice.finish_reason for choice in summary.choices)

    def ending(self, time: datetime) -> Ending:
        """As the ledger wants it."""
        return Ending(
            outcome=self.outcome,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            time=time,
            prompt_computed=self.is_prompt_computed,
            worker_id=self.worker_id,
            first_token_time=self.first_token_time,
            finish_reasons=self.finish_reasons,
        )


class Admissions:
    """Lets requests in, keeps what they hold, and gives it back however they end."""

    def __init__(self, limiter: Limiter, ledger: Ledger, prices: PriceBook, clock: Clock) -> None:
        self._limiter = limiter
        self._ledger = ledger
        self._prices = prices
        self._clock = clock
        self._live: dict[str, Admission] = {}
        self._open = 0
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._cut_from = math.inf

    @asynccontextmanager
    async def admit(self, job: Job, limits: Limits) -> AsyncIterator[Admission]:
        """Hold a place and a reservation for as long as the context lasts.

        Whatever ends it, place, tokens and money are given back and the usage record is written before the
        context is left, also when the caller is cancelled again and again.
        Raises LimitReachedError, AboveLimitError and NoCreditError, having taken nothing that stays.
        """
        admission = Admission(job=job, start_time=self._clock.now(), clock=self._clock)
        self._open += 1
        self._none_open.clear()
        try:
            await to_the_end(self._take(admission, limits))
            self._live[job.request_id] = admission
            yield admission
        except asyncio.CancelledError:
            # A complete answer was complete before; and a cut of ours is not the caller's to pay.
            if admission.outcome is not Outcome.COMPLETED and self._clock.monotonic() < self._cut_from:
                admission.outcome = Outcome.CANCELLED
            raise
        finally:
            self._live.pop(job.request_id, None)
            try:
                await to_the_end(self._give_back(admission))
            finally:
                self._open -= 1
                if not self._open:
                    self._none_open.set()

    async def debit(self, admission: Admission) -> None:
        """Take from the token rate what a request has produced beyond what it took before."""
        used = len(admission.job.prompt) + admission.completion_tokens
        if admission.lease is not None and used >= admission.debited_tokens + DEBITED_TOKENS:
            admission.debited_tokens = used
            await self._limiter.debit(admission.lease, used)

    def cut_after(self, seconds: float) -> None:
        """Say that what still runs after so many seconds will be cut by the server's stop, not by its caller."""
        self._cut_from = self._clock.monotonic() + seconds

    async def idle(self) -> None:
        """Wait until no request holds anything: calls that a stopped server cut still settle."""
        await self._none_open.wait()

    async def keep(self) -> NoReturn:
        """Every RENEW_SECONDS renew all leases, and write down what each request has produced."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self.renew_all()
            except Exception:  # the next round may succeed, and without rounds every lease would expire
                _log.exception("leases_not_renewed")

    async def renew_all(self) -> None:
        """One round of `keep`."""
        live = list(self._live.values())
        for admission in live:
            lease = admission.lease
            if lease is not None and not await self._limiter.renew(lease) and self._is_live(admission):
                # The stream goes on: to cut it would help nobody, and its end frees the place anyhow.
                _log.warning("lease_lost", request_id=admission.job.request_id, subject=lease.pool.subject)
        await self._ledger.checkpoint(
            {
                admission.job.request_id: admission.completion_tokens
                for admission in live
                if self._is_live(admission)
            },
        )

    async def close_abandoned(self) -> None:
        """Close the reservations of gateways that died: at the last checkpoint, or void where there is none."""
        now = self._clock.now()
        for request_id, tokens in await self._ledger.abandoned(now - timedelta(seconds=LEASE_SECONDS)):
            outcome = Outcome.CANCELLED if tokens else Outcome.FAILED
            ending = Ending(outcome=outcome, completion_tokens=tokens, cached_tokens=0, time=now)
            if await self._ledger.close(request_id, ending):
                _log.warning("abandoned_request_closed", request_id=request_id, completion_tokens=tokens)

    async def close_abandoned_for_ever(self) -> NoReturn:
        """Look after the dead at the start and every LEASE_SECONDS: what died last is found on a later round."""
        while True:
            try:
                await self.close_abandoned()
            except Exception:  # the next round may succeed
                _log.exception("abandoned_requests_not_closed")
            await asyncio.sleep(LEASE_SECONDS)

    async def _take(self, admission: Admission, limits: Limits) -> None:
        job = admission.job
        tokens = len(job.prompt) + min(job.max_tokens, RESERVED_COMPLETION_TOKENS * (job.sampling.n or 1))
        admission.lease = await self._limiter.admit(job.pool, tokens, limits)
        admission.debited_tokens = tokens
        row = await self._prices.in_force(job.target.base.name, job.target.base.price)
        adapter = job.target.adapter
        opened = OpenRequest(
            request_id=job.request_id,
            account_id=job.account,
            key=job.key,
            client_request_id=job.client_request_id,
            start_time=admission.start_time,
            model=job.target.model,
            base_model=job.target.base.name,
            adapter_digest="" if adapter is None else adapter.digest,
            deployment_uid="" if adapter is None else job.target.deployment_uid,
            price_id=row.id,
            price=row.price if adapter is None else row.price.through_adapter(),
            prompt_tokens=len(job.prompt),
        )
        await self._ledger.reserve(opened, opened.price.cost(len(job.prompt), job.max_tokens))
        admission.opened = opened

    async def _give_back(self, admission: Admission) -> None:
        try:
            try:
                if admission.lease is not None:
                    await self._limiter.settle(admission.lease, _tokens_used(admission))
                    await self._limiter.release(admission.lease)
            finally:
                if admission.opened is not None:
                    await self._close(admission, admission.opened)
        except Exception:
            # Said here: who waits may have been cancelled meanwhile, and then nobody else would hear of it.
            _log.exception("request_not_settled", request_id=admission.job.request_id)
            raise

    async def _close(self, admission: Admission, opened: OpenRequest) -> None:
        ending = admission.ending(self._clock.now())
        if not await self._ledger.close(opened.request_id, ending):
            _log.error("request_closed_by_another", request_id=opened.request_id)
            return
        _log.info(
            "request_ended",
            model=opened.model,
            outcome=ending.outcome.value,
            prompt_tokens=opened.prompt_tokens,
            cached_tokens=ending.cached_tokens,
            completion_tokens=ending.completion_tokens,
            total_pico_usd=charge(opened.price, opened.prompt_tokens, ending) or 0,
        )

    def _is_live(self, admission: Admission) -> bool:
        return admission.job.request_id in self._live


def _tokens_used(admission: Admission) -> int:
    """What counts towards the token rate: nothing when the end was our error, or when none was reserved."""
    if admission.opened is None or admission.outcome is Outcome.FAILED:
        return 0
    return admission.opened.prompt_tokens + admission.completion_tokens
