"""The README: short, and true in a fresh clone."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every command line of the README's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_readme_is_short_and_names_what_exists() -> None:
    """At most 600 words, and every path in its table is in the repository."""
    assert len(README.split()) <= 600
    for path in re.findall(r"^\| `([^`]+)`", README, flags=re.M):
        assert (ROOT / path).exists(), path


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_make_test_sets_everything_up_in_a_fresh_clone(tmp_path: Path) -> None:
    """`make test` in a clone with nothing beside Python and make installs the locked versions and passes tests."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("BENTOFLOW", "VIRTUAL_ENV", "PYTHONPATH", "MAKE"))}
    env["PATH"] = os.pathsep.join(p for p in env["PATH"].split(os.pathsep) if "/.bentoflow/" not in p)
    done = subprocess.run(
        ["make", "test", "ARGS=-q tests/test_architecture.py tests/flows/steps/test_contract.py"],
        cwd=clone,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    helped = subprocess.run(["make", "help"], cwd=clone, env=env, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in helped.splitlines()] == [
        "demo",
        "test",
        "check",
        "up",
        "down",
        "bench",
        "clean",
        "help",
    ]
