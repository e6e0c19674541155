"""Events for the server's automations: each is told once, also where the process that tells it is killed.

The server remembers in memory only, for half an hour, which ids it has had, and would start a second training for an
event that is sent again after that: so it is asked first. And an event counts as told when the server has received it,
which `prefect.events.emit_event` cannot say: it leaves the event to a thread, which a kill takes along, and to a queue
that can be waited for without a limit only.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.events.filters import EventFilter, EventIDFilter, EventOccurredFilter
from prefect.events.related import related_resources_from_run_context
from prefect.utilities.asyncutils import run_coro_as_sync

WAIT_S = 60.0
SKEW = timedelta(days=1)  # of the clock of another machine that told it


def tell(event: str, *, id: str, use_case: str, payload: dict[str, Any]) -> bool:
    """Send an event unless the server has it. Whether it has it now; what kept it from that is logged, never raised."""
    told = Event(
        event=event,
        id=UUID(id),
        resource={"prefect.resource.id": f"bentoflow.{use_case}"},
        payload=payload,
    )
    try:
        run_coro_as_sync(_tell(told))
    except Exception as error:
        get_run_logger().error("the server did not get %s, the next check tells it: %r", event, error)
        return False
    return True


async def _tell(event: Event) -> None:
    within = EventOccurredFilter(until=datetime.now(UTC) + SKEW)
    asked = EventFilter(id=EventIDFilter(id=[event.id]), occurred=within)
    async with asyncio.timeout(WAIT_S), get_client() as client:
        if (await client.read_events(asked, limit=1)).events:
            return
        event.related = await related_resources_from_run_context(client)
        async with get_events_client(checkpoint_every=1) as sender:  # after each event the server's answer is awaited
            await sender.emit(event)
