"""The batcher: rows that arrive while one batch runs make up the next; no timer and no memory of bursts."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class Overloaded(RuntimeError):
    """More rows wait than the queue may hold, or the batcher has stopped; try again later."""


class Ticket(Generic[I, O]):
    """The rows of one caller and how far they have come."""

    def __init__(self, items: Sequence[I], done: "asyncio.Future[list[O]]") -> None:
        self.items = items
        self.results: list[O] = []
        self.taken = 0
        self.done = done


class Batcher(Generic[I, O]):
    """Runs one batch at a time in its own thread; `run` gives one result per item, in order."""

    def __init__(self, run: Callable[[list[I]], list[O]], *, max_rows: int = 512, max_queued: int = 50_000) -> None:
        self._run = run
        self._max_rows, self._max_queued = max_rows, max_queued
        self._tickets: deque[Ticket[I, O]] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._stopping = True
        self._task: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def queued(self) -> int:
        """Rows that wait for a batch."""
        return self._queued

    def start(self) -> None:
        """Begin to take rows, in the running event loop."""
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._task = asyncio.get_running_loop().create_task(self._loop())

    async def stop(self) -> None:
        """Refuse new rows, finish those that wait, end the thread."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    async def submit(self, items: Sequence[I]) -> list[O]:
        """The items' results in order; Overloaded if they do not fit; whatever `run` raised on their batch."""
        if not items:
            return []
        if self._stopping:
            raise Overloaded("this server is shutting down; send the request to another one")
        if self._queued + len(items) > self._max_queued:
            raise Overloaded(
                f"{self._queued} rows wait already, {len(items)} more exceed {self._max_queued}; retry later"
            )
        ticket: Ticket[I, O] = Ticket(items, asyncio.get_running_loop().create_future())
        self._tickets.append(ticket)
        self._queued += len(items)
        self._wake.set()
        return await ticket.done

    async def _loop(self) -> None:
        while True:
            if not self._tickets:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            slices = self._gather()
            if slices:
                await self._batch(slices)

    def _gather(self) -> list[tuple[Ticket[I, O], Sequence[I]]]:
        """Rows for one batch. A caller with many rows goes to the back after each batch, so that others get through."""
        slices: list[tuple[Ticket[I, O], Sequence[I]]] = []
        room, unfinished = self._max_rows, []
        while self._tickets and room:
            ticket = self._tickets.popleft()
            rest = len(ticket.items) - ticket.taken
            if ticket.done.done():  # cancelled, or failed in an earlier batch
                self._queued -= rest
                continue
            taken = ticket.items[ticket.taken : ticket.taken + room]
            ticket.taken += len(taken)
            self._queued -= len(taken)
            room -= len(taken)
            slices.append((ticket, taken))
            if len(taken) < rest:
                unfinished.append(ticket)
        self._tickets.extend(unfinished)
        return slices

    async def _batch(self, slices: list[tuple[Ticket[I, O], Sequence[I]]]) -> None:
        items = [item for _, part in slices for item in part]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
            if len(results) != len(items):
                raise RuntimeError(f"a batch of {len(items)} rows gave {len(results)} results")
        except Exception as error:
            for ticket, _ in slices:
                if not ticket.done.done():
                    ticket.done.set_exception(error)
            return
        start = 0
        for ticket, part in slices:
            ticket.results += results[start : start + len(part)]
            start += len(part)
            if len(ticket.results) == len(ticket.items) and not ticket.done.done():
                ticket.done.set_result(ticket.results)
