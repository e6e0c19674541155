"""The exporter: what is below a home, read at every scrape, and never a stale or a half-read state."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from flows import exporter
from flows.stores import history
from tests.bentos.conftest import wait_for
from tests.servers import free_port

AT = datetime(2026, 1, 1, tzinfo=UTC)


def scraped(home: Path) -> str:
    """What a scrape would get."""
    registry = CollectorRegistry()
    registry.register(exporter.State(home))
    return generate_latest(registry).decode()


def test_a_home_without_history_has_nothing_to_tell(tmp_path: Path) -> None:
    """A use case that was never used is not there at all."""
    assert "use_case=" not in scraped(tmp_path)


def test_every_scrape_reads_anew(tmp_path: Path) -> None:
    """What a flow wrote since is told at once."""
    history.append(tmp_path, "churn", "trained: HOLD", at=AT, version="1")
    assert 'bentoflow_candidates_total{use_case="churn",verdict="HOLD"} 1.0' in scraped(tmp_path)
    history.append(tmp_path, "churn", "trained: HOLD", at=AT, version="2")
    assert 'bentoflow_candidates_total{use_case="churn",verdict="HOLD"} 2.0' in scraped(tmp_path)


def test_records_that_cannot_be_read_hide_no_other_use_case(tmp_path: Path) -> None:
    """A damaged file is told by its own metric."""
    history.append(tmp_path, "churn", "trained: HOLD", at=AT, version="1")
    history.append(tmp_path, "fraud", "trained: HOLD", at=AT, version="1")
    (tmp_path / "feedback").mkdir()
    (tmp_path / "feedback" / "churn.json").write_text("{torn")
    text = scraped(tmp_path)
    assert 'bentoflow_state_readable{use_case="churn"} 0.0' in text
    assert 'bentoflow_state_readable{use_case="fraud"} 1.0' in text
    assert 'bentoflow_candidates_total{use_case="fraud",verdict="HOLD"} 1.0' in text
    assert 'bentoflow_candidates_total{use_case="churn"' not in text


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_the_command_answers_until_it_is_told_to_stop(home: Path) -> None:
    """SIGTERM ends it cleanly, and a port that is taken is a clear error."""
    history.append(home, "churn", "trained: HOLD", at=AT, version="1")
    port = free_port()
    env = {**os.environ, "BENTOFLOW_EXPORTER_PORT": str(port)}
    command = [str(Path(sys.executable).with_name("bentoflow")), "exporter"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    def told() -> bool:
        try:
            return "bentoflow_clock_seconds" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        except httpx.TransportError:
            assert process.poll() is None
            return False

    try:
        wait_for(told, what="the exporter")
        second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        assert "BENTOFLOW_EXPORTER_PORT" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
