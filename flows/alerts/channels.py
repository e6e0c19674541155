"""Channels: where alerts go, each a saved Prefect block or a URL of Apprise, and how one message is sent.

`BENTOFLOW_ALERTS` lists them: `slack-webhook/oncall`, `pager-duty-webhook/ops`, `custom-webhook/hook` and any other
notification block of Prefect; `secret/NAME`, a block whose value is an Apprise URL, for e-mail with its password
(`mailtos://user:password@host?to=…`); or such a URL itself. PagerDuty gets an event of its own for what is resolved:
Apprise cannot close its incident.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

from prefect.blocks import notifications  # registers the types of blocks
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from pydantic import SecretStr

from flows.errors import AlertError
from flows.steps.monitoring.alerts import Level

BLOCK = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")
BETWEEN = re.compile(r"[\s,]+(?=[a-z0-9-]+/|[\w+-]+://)|\s+", flags=re.I)
SECRETS = re.compile(r"\S+://\S+|\S+@\S+")


@dataclass(frozen=True)
class Channel:
    """One place for alerts; `name` may be told, what it stands for may not."""

    name: str
    address: SecretStr


def configured(text: str, key: bytes) -> tuple[Channel, ...]:
    """The channels of a setting; a URL is named by its scheme and a keyed hash, so that no secret is ever written."""
    return tuple(
        Channel(_name(entry, place, key), SecretStr(entry))
        for place, entry in enumerate(filter(None, BETWEEN.split(text.strip(", \n"))), start=1)
    )


def _name(entry: str, place: int, key: bytes) -> str:
    if "://" in entry:
        return f"{entry.split('://')[0].lower()}:{hmac.new(key, entry.encode(), hashlib.sha256).hexdigest()[:6]}"
    return entry if BLOCK.fullmatch(entry) else f"entry {place}"


def send(channel: Channel, title: str, body: str, level: Level) -> None:
    """Send one message; AlertError says which channel did not take it and why, without a secret."""
    block = _block(channel)
    if isinstance(block, notifications.AbstractAppriseNotificationBlock):
        block.notify_type = level
    try:
        with block.raise_on_failure():
            block.notify(body, title)
    except NotificationError as error:
        why = error.log.strip() or "not accepted"
        if "no service(s)" in why:
            why = "its URL is none that Apprise knows; see https://appriseit.com/services"
        raise AlertError(f"{channel.name}: {clean(why)}") from None
    except Exception as error:
        raise AlertError(f"{channel.name}: {clean(f'{type(error).__name__}: {error}')}") from None


def _block(channel: Channel) -> NotificationBlock:
    entry = channel.address.get_secret_value()
    if "://" in entry:
        return notifications.AppriseNotificationBlock(url=SecretStr(entry))
    if not BLOCK.fullmatch(entry):
        raise AlertError(
            f"{channel.name} of BENTOFLOW_ALERTS is neither TYPE/NAME of a saved block, such as slack-webhook/oncall, "
            "nor a URL such as mailtos://user:password@host"
        )
    try:
        found = Block.load(entry)
    except Exception as error:  # no such block or type, or no server
        raise AlertError(
            f"{entry} cannot be loaded ({clean(str(error))}); `prefect block ls` lists the saved ones"
        ) from None
    if isinstance(found, Secret):
        return notifications.AppriseNotificationBlock(url=SecretStr(str(found.get())))
    if not isinstance(found, NotificationBlock):
        raise AlertError(
            f"{entry} is a {type(found).__name__}, no notification block; for any URL use custom-webhook/NAME"
        )
    return found


def clean(text: str) -> str:
    """One short line of an error, without anything that looks like an address."""
    return " ".join(SECRETS.sub("…", text).split())[:300]
