"""The batcher."""

import asyncio
import threading

import pytest

from bentos.runtime.batcher import Batcher, Overloaded


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


def flat(run):
    """A batch function of parts from one of items in a row."""

    def run_parts(parts):
        results, at = run([item for items, _ in parts for item in items]), 0
        found = []
        for items, _ in parts:
            found.append(results[at : at + len(items)])
            at += len(items)
        return found

    return run_parts


async def submit(batcher, items):
    """The items' results, whatever parts they came in."""
    return [result for part in await batcher.submit(items, None) for result in part]


class Gate:
    """A batch function that waits at a gate and keeps what it was given."""

    def __init__(self) -> None:
        self.open, self.entered, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, items: list) -> list:
        self.batches.append(items)
        self.entered.set()
        self.open.wait(10)
        if "poison" in items:
            raise ValueError("poison")
        return [f"{i}!" for i in items]


async def held(gate: Gate, **limits) -> tuple[Batcher, "asyncio.Task"]:
    """A started batcher whose first batch waits at the gate."""
    batcher = Batcher(flat(gate), **limits)
    batcher.start()
    first = asyncio.create_task(submit(batcher, ["first"]))
    await asyncio.to_thread(gate.entered.wait, 10)
    return batcher, first


def test_what_arrives_while_a_batch_runs_is_the_next_batch():
    """One batch runs, the next gathers, and each caller gets its own results in order."""

    async def main():
        gate = Gate()
        batcher, first = await held(gate)
        others = [asyncio.create_task(submit(batcher, [i, i + 100])) for i in range(5)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await first == ["first!"]
        assert await asyncio.gather(*others) == [[f"{i}!", f"{i + 100}!"] for i in range(5)]
        assert [len(b) for b in gate.batches] == [1, 10]
        await batcher.stop()

    run(main())


def test_a_large_request_is_cut_and_does_not_keep_others_waiting():
    """A caller with many rows shares the batches with one that came later."""

    async def main():
        gate = Gate()
        batcher, first = await held(gate, max_rows=4)
        large = asyncio.create_task(submit(batcher, list(range(20))))
        await asyncio.sleep(0)
        small = asyncio.create_task(submit(batcher, ["small"]))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, small)
        assert not large.done()
        assert await large == [f"{i}!" for i in range(20)]
        assert max(len(b) for b in gate.batches) == 4
        await batcher.stop()

    run(main())


def test_a_full_queue_refuses_at_once():
    """More rows than the queue holds are Overloaded, and those that wait are still answered."""

    async def main():
        gate = Gate()
        batcher, _ = await held(gate, max_queued=3)
        waiting = asyncio.create_task(submit(batcher, [1, 2, 3]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 rows wait already, 1 more exceed 3"):
            await submit(batcher, [4])
        gate.open.set()
        assert await waiting == ["1!", "2!", "3!"]
        assert await submit(batcher, [5]) == ["5!"]
        await batcher.stop()

    run(main())


def test_cancelled_requests_are_never_run_and_free_their_place():
    """A caller that has gone costs nothing."""

    async def main():
        gate = Gate()
        batcher, _ = await held(gate)
        gone = asyncio.create_task(submit(batcher, ["gone"]))
        stays = asyncio.create_task(submit(batcher, ["stays"]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert await stays == ["stays!"]
        assert ["gone"] not in gate.batches
        assert "gone" not in gate.batches[1]
        assert batcher.queued == 0
        await batcher.stop()

    run(main())


def test_an_exception_fails_only_its_own_batch():
    """The callers of the failed batch get the exception, the next batch runs."""

    async def main():
        gate = Gate()
        gate.open.set()
        batcher = Batcher(flat(gate))
        batcher.start()
        with pytest.raises(ValueError, match="poison"):
            await submit(batcher, ["poison"])
        assert await submit(batcher, ["fine"]) == ["fine!"]
        await batcher.stop()

    run(main())


def test_stopping_answers_what_waits_and_refuses_what_comes():
    """A clean shutdown loses nothing that was accepted and leaves no thread behind."""

    async def main():
        gate = Gate()
        batcher, first = await held(gate)
        waiting = asyncio.create_task(submit(batcher, [1]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="shutting down"):
            await submit(batcher, [2])
        gate.open.set()
        await stopping
        assert (await first, await waiting) == (["first!"], ["1!"])

    run(main())
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]


def test_a_batch_function_with_too_few_results_is_an_error():
    """Results are never shifted to the wrong row."""

    async def main():
        batcher = Batcher(flat(lambda items: items[1:]))
        batcher.start()
        with pytest.raises(RuntimeError, match="2 rows gave 1 results"):
            await submit(batcher, [1, 2])
        await batcher.stop()

    run(main())


def test_a_quick_batch_is_what_arrived_in_one_turn_of_the_loop():
    """Quick batches run in the event loop's own thread and hold everything that came in the same turn; no timer."""

    async def main():
        threads, sizes = set(), []

        def run_batch(items):
            threads.add(threading.current_thread())
            sizes.append(len(items))
            return items

        batcher = Batcher(flat(run_batch), quick=lambda parts: True)
        batcher.start()
        assert await asyncio.gather(*[submit(batcher, [i]) for i in range(7)]) == [[i] for i in range(7)]
        assert await submit(batcher, ["alone"]) == ["alone"]
        assert (threads, sizes) == ({threading.main_thread()}, [7, 1])
        await batcher.stop()

    run(main())


def test_an_exception_in_a_quick_batch_fails_only_that_batch():
    """The loop goes on after a batch that failed in it."""

    async def main():
        batcher = Batcher(flat(lambda items: [1 / i for i in items]), quick=lambda parts: True)
        batcher.start()
        with pytest.raises(ZeroDivisionError):
            await submit(batcher, [0])
        assert await submit(batcher, [2]) == [0.5]
        await batcher.stop()

    run(main())


def test_a_row_that_waits_too_long_is_refused_while_a_batch_hangs():
    """A hanging batch costs those behind it their deadline, not their connection; afterwards all goes on."""

    async def main():
        gate = Gate()
        batcher, first = await held(gate, deadline_s=0.2)
        with pytest.raises(Overloaded, match=r"no answer within 0\.2 s"):
            await submit(batcher, ["behind"])
        gate.open.set()
        assert await first == ["first!"]
        assert await submit(batcher, ["after"]) == ["after!"]
        assert (batcher.queued, "behind" in str(gate.batches)) == (0, False)
        await batcher.stop()

    run(main())


def test_a_burst_leaves_nothing_behind():
    """After a thousand rows at once a lone row is a batch of one, at once."""

    async def main():
        sizes = []
        batcher = Batcher(flat(lambda items: sizes.append(len(items)) or items), quick=lambda parts: True, max_rows=64)
        batcher.start()
        await asyncio.gather(*[submit(batcher, [i]) for i in range(1000)])
        sizes.clear()
        await submit(batcher, ["lone"])
        assert sizes == [1]
        await batcher.stop()

    run(main())
