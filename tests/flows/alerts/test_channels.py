"""One message through every kind of channel to a real receiver, and errors that say what to do and no secret.

Slack's and PagerDuty's hosts are constants of Apprise, which no URL replaces: there the constant is pointed to the
receiver, and everything else is what would run against the real host.
"""

from collections.abc import Iterator

import pytest
from apprise.plugins import pagerduty, slack
from prefect.blocks.notifications import CustomWebhookNotificationBlock, PagerDutyWebHook, SlackWebhook
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook
from pydantic import SecretStr

from flows.alerts import channels
from flows.errors import AlertError
from tests.flows.alerts.receivers import Web, mail, web

KEY = b"key"
MESSAGE = ("Shop: broken data", "Column amount: values are 100 times.\n\nRun: bentoflow quarantine")


@pytest.fixture
def hook() -> Iterator[Web]:
    with web() as found:
        yield found


def sent(text: str) -> None:
    (channel,) = channels.configured(text, KEY)
    channels.send(channel, *MESSAGE, "failure")


def test_a_custom_webhook_gets_title_and_body(prefect_api: None, hook: Web) -> None:
    """A saved block is found by type and name on the Prefect server, and its own template is filled."""
    template = {"title": "{{subject}}", "text": "{{body}}", "from": "{{name}}"}
    CustomWebhookNotificationBlock(name="ops", url=f"{hook.url}/in", json_data=template).save("hook", overwrite=True)
    sent("custom-webhook/hook")
    assert hook.got == [("/in", {"title": MESSAGE[0], "text": MESSAGE[1], "from": "ops"})]


def test_slack_gets_its_payload(prefect_api: None, hook: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incoming webhook of Slack: the tokens are its path, an attachment has title, text and a colour of failure."""
    monkeypatch.setattr(slack.NotifySlack, "webhook_url", f"{hook.url}/services")
    tokens = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    SlackWebhook(url=SecretStr(f"https://hooks.slack.com/services/{tokens}")).save("oncall", overwrite=True)
    sent("slack-webhook/oncall")
    ((path, body),) = hook.got
    assert path == f"/services/{tokens}"
    (attachment,) = body["attachments"]
    assert attachment["title"] == MESSAGE[0]
    assert "values are 100 times" in attachment["text"]
    assert attachment["color"] == "#A32037"


def test_pagerduty_gets_its_event(prefect_api: None, hook: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of PagerDuty's API v2: routing key, severity by the alert's level, title as summary, body as detail."""
    monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, "us", f"{hook.url}/v2/enqueue")
    block = PagerDutyWebHook(integration_key=SecretStr("routing"), api_key=SecretStr("api"))
    block.save("ops", overwrite=True)
    sent("pager-duty-webhook/ops")
    ((path, body),) = hook.got
    assert (path, body["routing_key"], body["event_action"]) == ("/v2/enqueue", "routing", "trigger")
    assert body["payload"]["severity"] == "critical"
    assert body["payload"]["summary"].strip() == MESSAGE[0]
    assert list(body["payload"]["custom_details"].values()) == [MESSAGE[1]]


@pytest.mark.parametrize("saved", [False, True], ids=["address in the environment", "address in a secret block"])
def test_a_mail_server_gets_a_mail(prefect_api: None, saved: bool) -> None:
    """E-mail through Apprise's URL, given itself or as the value of a saved secret."""
    with mail() as (port, got):
        url = f"mailto://127.0.0.1:{port}?from=bentoflow@example.com&to=ann@example.com,bob@example.com&mode=insecure"
        if saved:
            Secret(value=SecretStr(url)).save("mail", overwrite=True)
        sent("secret/mail" if saved else url)
        to = [str(message["To"]) for message in got]
        assert sorted(to) == ["ann@example.com", "bob@example.com"]
        assert str(got[0]["Subject"]) == MESSAGE[0]
        assert "values are 100 times" in got[0].as_string()


def test_a_setting_is_split_into_channels_whose_names_tell_no_secret() -> None:
    """Blocks and URLs, by commas or blanks; commas inside a URL do not split it; a URL is named by scheme and hash."""
    text = "slack-webhook/oncall, secret/mail mailto://u:pass@host?to=a@b.c,d@e.f,json://host/token\n nonsense"
    found = channels.configured(text, KEY)
    kinds = [channel.name.split(":")[0] for channel in found]
    assert kinds == ["slack-webhook/oncall", "secret/mail", "mailto", "json", "entry 5"]
    assert found[2].address.get_secret_value() == "mailto://u:pass@host?to=a@b.c,d@e.f"
    assert channels.configured(" ", KEY) == ()
    names = " ".join(channel.name for channel in found)
    assert not any(secret in names for secret in ("pass", "token", "host"))
    assert "pass" not in repr(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slack-webhook/nobody", "cannot be loaded .*prefect block ls"),
        ("no-such-type/x", "cannot be loaded .*prefect block ls"),
        ("nonsense", "entry 1 of BENTOFLOW_ALERTS is neither TYPE/NAME of a saved block"),
        ("nonsense://token", "its URL is none that Apprise knows"),
        ("webhook/plain", "is a Webhook, no notification block"),
        ("json://127.0.0.1:1/token", "Connection error"),
    ],
)
def test_a_bad_channel_is_an_error_that_says_what_to_do(prefect_api: None, text: str, says: str) -> None:
    """An unknown block or type, no block at all, a wrong URL, a block of another kind, nobody listening."""
    Webhook(url=SecretStr("http://127.0.0.1:1")).save("plain", overwrite=True)
    with pytest.raises(AlertError, match=says) as found:
        sent(text)
    assert "token" not in str(found.value)


def test_a_refusal_names_the_status_and_not_the_address(prefect_api: None, hook: Web) -> None:
    """A webhook that answers 403: the status is told, the URL with its token is not."""
    hook.status = 403
    template = {"text": "{{body}}"}
    CustomWebhookNotificationBlock(name="x", url=f"{hook.url}/token", json_data=template).save("shut", overwrite=True)
    for entry in ("custom-webhook/shut", f"json://{hook.url.removeprefix('http://')}/token"):
        with pytest.raises(AlertError, match="403") as found:
            sent(entry)
        assert "token" not in str(found.value)
