"""The batcher: what has arrived in this turn of the event loop is the batch; no timer and no memory of bursts."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
L = TypeVar("L")


class Overloaded(RuntimeError):
    """More rows wait than the queue may hold, a row waited too long, or the batcher has stopped; try again later."""


class Ticket(Generic[L, I, O]):
    """The rows of one caller and how far they have come."""

    __slots__ = ("done", "expires", "items", "label", "results", "taken")

    def __init__(self, items: Sequence[I], label: L, done: "asyncio.Future[list[Sequence[O]]]", expires: float) -> None:
        self.items, self.label, self.done, self.expires = items, label, done, expires
        self.results: list[Sequence[O]] = []
        self.taken = 0


Part = tuple[Sequence[I], L]  # rows of one caller, with what it said of them
Slices = list[tuple[Ticket[L, I, O], Sequence[I]]]


class Batcher(Generic[L, I, O]):
    """Runs one batch at a time; `run` gets what callers have in it, and gives for each part one result per item.

    A batch that is `quick` (never waits for anything) runs in the event loop: a thread would cost more than most
    batches do, and would hold the interpreter's lock all the same. Others run in a thread while the next gathers.
    """

    def __init__(
        self,
        run: Callable[[list[Part[I, L]]], list[Sequence[O]]],
        *,
        max_rows: int = 1024,
        max_queued: int = 50_000,
        deadline_s: float = 20.0,
        quick: Callable[[list[Part[I, L]]], bool] = lambda parts: False,
        observe: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._run, self._quick, self._observe = run, quick, observe
        self._max_rows, self._max_queued, self._deadline_s = max_rows, max_queued, deadline_s
        self._tickets: deque[Ticket[L, I, O]] = deque()
        self._queued = 0
        self._busy = False  # a batch runs, or is about to be gathered
        self._stopping = True
        self._idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._thread: ThreadPoolExecutor | None = None

    @property
    def queued(self) -> int:
        """Rows that wait for a batch."""
        return self._queued

    def start(self) -> None:
        """Begin to take rows, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._stopping = False

    async def stop(self) -> None:
        """Refuse new rows, finish those that wait, end the thread."""
        self._stopping = True
        while self._busy:
            self._idle.clear()
            await self._idle.wait()
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    async def submit(self, items: Sequence[I], label: L) -> list[Sequence[O]]:
        """The items' results in order, in one part or several; Overloaded if they do not fit; what `run` raised."""
        if not items:
            return []
        if self._stopping:
            raise Overloaded("this server is shutting down; send the request to another one")
        if self._queued + len(items) > self._max_queued:
            raise Overloaded(
                f"{self._queued} rows wait already, {len(items)} more exceed {self._max_queued}; retry later"
            )
        loop = self._loop
        ticket: Ticket[L, I, O] = Ticket(items, label, loop.create_future(), loop.time() + self._deadline_s)
        self._tickets.append(ticket)
        self._queued += len(items)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next)
        return await ticket.done

    def _next(self) -> None:
        """Run what waits, if anything does."""
        slices = self._gather()
        if not slices:
            self._busy = bool(self._tickets)
            if self._busy:
                self._loop.call_soon(self._next)
            else:
                self._idle.set()
            return
        parts = [(part, ticket.label) for ticket, part in slices]
        self._observe(sum(len(part) for part, _ in parts))
        if self._quick(parts):
            try:
                self._deliver(slices, self._run(parts))
            except Exception as error:
                self._fail(slices, error)
            self._loop.call_soon(self._next)
            return
        watch = self._loop.call_later(self._deadline_s, self._expire)
        running = self._loop.run_in_executor(self._thread, self._run, parts)
        running.add_done_callback(partial(self._finish, slices, watch))

    def _finish(
        self, slices: Slices[L, I, O], watch: asyncio.TimerHandle, running: "asyncio.Future[list[Sequence[O]]]"
    ) -> None:
        watch.cancel()
        try:
            self._deliver(slices, running.result())
        except Exception as error:
            self._fail(slices, error)
        self._next()

    def _gather(self) -> Slices[L, I, O]:
        """Rows for one batch, those of a caller in one piece where a batch holds them.

        A caller with more rows goes to the back after each batch, so that others get through.
        """
        slices: Slices[L, I, O] = []
        room, unfinished, now = self._max_rows, [], self._loop.time()
        while self._tickets and room:
            ticket = self._tickets.popleft()
            rest = len(ticket.items) - ticket.taken
            if self._gone(ticket, now):
                self._queued -= rest
                continue
            if slices and rest > room:
                self._tickets.appendleft(ticket)
                break
            taken = ticket.items[ticket.taken : ticket.taken + room]
            ticket.taken += len(taken)
            self._queued -= len(taken)
            room -= len(taken)
            slices.append((ticket, taken))
            if len(taken) < rest:
                unfinished.append(ticket)
        self._tickets.extend(unfinished)
        return slices

    def _gone(self, ticket: Ticket[L, I, O], now: float) -> bool:
        """Whether nobody waits for a ticket any more: cancelled, failed in an earlier batch, or past its deadline."""
        if not ticket.done.done() and now >= ticket.expires:
            ticket.done.set_exception(Overloaded(f"no answer within {self._deadline_s:g} s; retry later"))
        return ticket.done.done()

    def _expire(self) -> None:
        """While a batch hangs in its thread, refuse what has waited too long."""
        now = self._loop.time()
        for ticket in self._tickets:
            self._gone(ticket, now)
        if self._tickets:
            self._loop.call_later(self._deadline_s / 4, self._expire)

    def _deliver(self, slices: Slices[L, I, O], results: list[Sequence[O]]) -> None:
        if list(map(len, results)) != [len(part) for _, part in slices]:
            rows, given = sum(len(part) for _, part in slices), sum(map(len, results))
            raise RuntimeError(f"a batch of {rows} rows gave {given} results")
        for (ticket, _), result in zip(slices, results, strict=True):
            ticket.results.append(result)
            if ticket.taken == len(ticket.items) and not ticket.done.done():
                ticket.done.set_result(ticket.results)

    def _fail(self, slices: Slices[L, I, O], error: Exception) -> None:
        for ticket, _ in slices:
            if not ticket.done.done():
                ticket.done.set_exception(error)
