"""The engine's own thread: takes sequences in, steps while there are any, and hands their tokens out."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue

import torch

from services.common.logs import get_logger
from services.worker.engine.interface import (
    EngineOutput,
    EngineRequest,
    EngineStoppedError,
    Finish,
    NotFiniteError,
    Sampling,
    StepStats,
)
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.output_streams import Outbox, OutputStream
from services.worker.engine.local.runner import Runner
from services.worker.engine.local.sampler import Sampled, SampleRow
from services.worker.engine.local.schedule.prefill_pace import PrefillPace
from services.worker.engine.local.schedule.scheduler import Scheduler, StepChunk
from services.worker.engine.local.schedule.sequence import Sequence

_log = get_logger(__name__)

# Steps one after another of which nothing came, after which the engine doubts itself.
_BARREN_STEPS = 3
_PROBE = EngineRequest("probe", "", (0,), Sampling(max_tokens=1, temperature=0.0, ignore_eos=True))


class EngineBrokenError(Exception):
    """Not even a token of the base can be computed: nothing that comes will be."""


class EngineLoop:
    """Owns the scheduler and the runner; all but its thread go through `submit`, `cancel` and `stop`."""

    def __init__(
        self,
        scheduler: Scheduler[LoadedAdapter],
        runner: Runner,
        outbox: Outbox,
        *,
        pace: PrefillPace,
        on_failure: Callable[[], None],
    ) -> None:
        """`on_failure` is called on the engine's thread when it can compute no more, or a defect of the loop has ended it."""
        self._scheduler = scheduler
        self._runner = runner
        self._outbox = outbox
        self._on_failure = on_failure
        self._pace = pace
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = False
        self._ended = False
        self._barren_steps = 0
        self._probe: Sequence[LoadedAdapter] | None = None
        self._ending = threading.Lock()
        self._counts = StepStats(kv_blocks=scheduler.pool.total)
        self.stats = replace(self._counts)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence[LoadedAdapter]) -> None:
        """Run a sequence; its outputs, or the error that ended it, come through its stream."""
        with self._ending:
            if not self._ended:
                self._inbox.put(lambda: self._scheduler.add(sequence))
                return
        sequence.stream.put(EngineStoppedError("the engine has stopped"))

    def cancel(self, sequence: Sequence[LoadedAdapter], gone: Callable[[], None]) -> None:
        """End a sequence before the next step; nothing more comes through its stream.

        `gone` is called on the event loop once no step computes it any more.
        """

        def remove() -> None:
            self._scheduler.remove(sequence)
            self._outbox.call(gone)

        with self._ending:
            if not self._ended:
                self._inbox.put(remove)
                return
        gone()

    def stop(self) -> None:
        """End every sequence with EngineStoppedError after the current step, and the thread; waits for it."""
        self._inbox.put(self._begin_stop)
        self._thread.join()

    def step(self) -> None:
        """One round: schedule, run, postprocess. A failure ends the sequence that fails alone, and no others.

        Raises EngineBrokenError once nothing can be computed any more.
        """
        started = time.monotonic()
        chunks = self._scheduler.schedule(self._pace.budget(self._scheduler.decoding))
        self._count_step(chunks, started)
        prompt_tokens = sum(chunk.length for chunk in chunks if chunk.length > 1)
        decoding = sum(chunk.length == 1 for chunk in chunks)
        self._barren_steps += 1
        self._compute(chunks)
        if self._barren_steps >= _BARREN_STEPS and self._probe is None:
            # Their requests' fault, or the device's? A token of the base with nothing to it tells.
            self._probe = Sequence(_PROBE, None, frozenset(), OutputStream())
            self._scheduler.add(self._probe)
        seconds = time.monotonic() - started
        self._pace.note(seconds, prompt_tokens, decoding)
        self._counts.step_seconds_total += seconds

    def _compute(self, chunks: list[StepChunk[LoadedAdapter]]) -> None:
        """Run chunks and advance their sequences; where that fails, each half by itself."""
        try:
            logits = self._runner.run(chunks)
            sampling = [chunk.sequence for chunk in chunks if chunk.samples]
            rows = [
                SampleRow(one.request.sampling, one.tokens, one.prompt_length, one.reweighting)
                for one in sampling
            ]
            sampled = self._runner.sample(logits, rows)
        except Exception as error:
            # Out of memory, a defect: nothing has been appended, the blocks are as they were.
            _log.exception("engine_step_failed", error=type(error).__name__, sequences=len(chunks))
            self._counts.failed_steps_total += 1
            if len(chunks) > 1:
                half = len(chunks) // 2
                self._compute(chunks[:half])
                self._compute(chunks[half:])
                return
            if chunks[0].sequence is self._probe:
                raise EngineBrokenError from error
            self._end(chunks[0].sequence, EngineStoppedError("the step failed"))
            return
        self._barren_steps = 0
        for chunk in chunks:
            self._scheduler.computed(chunk)
        for sequence, one in zip(sampling, sampled, strict=True):
            if sequence is self._probe:
                self._probe = None
                self._scheduler.remove(sequence)
            else:
                self._advance(sequence, one)

    def _run(self) -> None:
        torch.set_num_threads(self._runner.torch_threads)
        try:
            while not self._stopping:
                self._take_in()
                if self._scheduler.has_work and not self._stopping:
                    self.step()
                self._publish()
        except Exception:  # broken, or a defect of the loop itself: nobody may be left waiting for it
            _log.exception("engine_loop_failed")
            self._on_failure()
        finally:
            self._end_all()

    def _take_in(self) -> None:
        """Do what has come in; with nothing to run, wait for it."""
        if not self._scheduler.has_work:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _count_step(self, chunks: list[StepChunk[LoadedAdapter]], now: float) -> None:
        counts = self._counts
        counts.steps_total += 1
        counts.step_sequences_total += len(chunks)
        for chunk in chunks:
            if not chunk.sequence.begun and chunk.sequence is not self._probe:
                counts.admitted_total += 1
                counts.queue_seconds_total += now - chunk.sequence.arrived

    def _advance(self, sequence: Sequence[LoadedAdapter], sampled: Sampled | None) -> None:
        """Append a token to its sequence, or end the sequence."""
        if not sequence.answered:  # once: a preempted sequence is computed again, with what it produced
            sequence.answered = True
            self._counts.prompt_tokens_total += sequence.prompt_length
            self._counts.cached_tokens_total += sequence.cached_tokens
        if sampled is None:
            _log.warning("sequence_not_finite", request_id=sequence.request.request_id)
            self._scheduler.forget(sequence)
            self._end(sequence, NotFiniteError("the model gave numbers that are not finite"))
            return
        if sampled.token_id in sequence.stop_ids:
            self._end(sequence, EngineOutput((), cached_tokens=sequence.cached_tokens, finish=Finish.STOP))
            return
        sequence.tokens.append(sampled.token_id)
        self._counts.completion_tokens_total += 1
        last = sequence.output_length >= sequence.request.sampling.max_tokens
        output = EngineOutput(
            (sampled.token_id,),
            logprobs=() if sampled.logprob is None else (sampled.logprob,),
            cached_tokens=sequence.cached_tokens,
            finish=Finish.LENGTH if last else None,
        )
        if last:
            self._end(sequence, output)
        else:
            self._outbox.post(sequence.stream, output)

    def _end(self, sequence: Sequence[LoadedAdapter], item: EngineOutput | Exception) -> None:
        self._scheduler.remove(sequence)
        self._outbox.post(sequence.stream, item)

    def _end_all(self) -> None:
        with self._ending:  # after this nobody can come in and be forgotten
            self._ended = True
            while not self._inbox.empty():
                self._inbox.get()()
        for sequence in self._scheduler.sequences():
            self._end(sequence, EngineStoppedError("the engine has stopped"))
        self._publish()

    def _begin_stop(self) -> None:
        self._stopping = True

    def _publish(self) -> None:
        """Make the step's counts and outputs seen; counts first, so who has an output sees them with it."""
        pool = self._scheduler.pool
        self.stats = replace(
            self._counts,
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            preemptions_total=self._scheduler.preemptions,
            kv_blocks_held=pool.total - pool.free,
            kv_blocks_cached=pool.cached,
        )
        self._outbox.send()
