"""The tools of these tests: fetched once, and never silently absent in CI."""

import subprocess
from pathlib import Path

import pytest

from tests.infra import tools


def broken(folder: Path) -> None:
    """A set-up that ends in the middle."""
    (folder / "half").touch()
    raise subprocess.CalledProcessError(1, "uv", "", "no route to the index")


def whole(folder: Path) -> None:
    """One that does not, and finds nothing of the one before."""
    assert not (folder / "half").exists()
    (folder / "tool").touch()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), (None, pytest.skip.Exception)])
def test_a_missing_tool_fails_in_ci_and_skips_elsewhere(
    ci: str | None, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which tool and why; the next run sets it up from the start, and the one after that finds it."""
    monkeypatch.setattr(tools, "KEPT", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="helm could not be set up: no route to the index"):
        tools.kept("helm-1", "helm", broken)
    assert (tools.kept("helm-1", "helm", whole) / "tool").exists()
    assert (tools.kept("helm-1", "helm", broken) / "tool").exists()
