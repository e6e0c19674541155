"""The image of the flows: built on the tests' base, and run with nothing that it could do without."""

import json
import subprocess

import pytest

from flows.stores import lineage
from tests.conftest import Tell
from tests.container.conftest import PLANTED
from tests.container.machine import Machine

pytestmark = [pytest.mark.stack, pytest.mark.integration, pytest.mark.timeout(900)]

HARDENED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges")
WRITES = ("--tmpfs=/tmp", "--volume=/var/lib/bentoflow")  # a volume is owned as the folder of the image is


def run(image: str, *command: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
    """A command in the image as the stack runs it, without a network; as another user to look everywhere."""
    options = ["--rm", "--network=none", *HARDENED, *WRITES, *([f"--user={user}"] if user else [])]
    return subprocess.run(
        ["podman", "run", *options, image, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_the_command_line_works_with_a_read_only_root(flows_image: str) -> None:
    """`bentoflow --help`, which the image starts, and what it knows of itself: commit and lock."""
    said = run(flows_image)
    assert said.returncode == 0, said.stderr
    assert "prepare" in said.stdout
    code = "from flows.stores import lineage; print(lineage.commit())"
    assert run(flows_image, "python", "-c", code).stdout.strip() == lineage.commit()


def test_it_runs_as_nobody_in_particular(flows_image: str) -> None:
    """Uid and gid 10001, no capability and none to be gained, in the kernel's words; the root is not written to."""
    lines = run(flows_image, "cat", "/proc/self/status").stdout.splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {*status["Uid"].split(), *status["Gid"].split()} == {"10001"}
    assert {status[name].strip("0") for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {""}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    may = {
        path: run(flows_image, "touch", f"{path}/written").returncode == 0 for path in ("/app", "/var/lib/bentoflow")
    }
    assert may == {"/app": False, "/var/lib/bentoflow": True}


def test_no_compiler_no_cache_and_no_secret_is_in_it(flows_image: str, served: Machine) -> None:
    """Nothing to build with or left of the build; of this checkout what .dockerignore lets in, and no more."""
    tools = "gcc cc g++ make git ld"
    assert run(flows_image, "sh", "-c", f"for tool in {tools}; do command -v $tool; done; true").stdout == ""
    look = (
        "find / -xdev \\( -path '*/.cache/*' -o -path '*/uv/cache/*' -o -path '/var/cache/apt/archives/*.deb' "
        "-o -path '/var/lib/apt/lists/*_Packages' -o -name '.env' "
        "-o -name '*.key' -not -path '*/site-packages/*' \\) -print; "
        f"grep -rlsF {PLANTED} /app /etc /home /root /opt /srv /usr/local /var; ls -A /app; true"
    )
    told = run(flows_image, "sh", "-c", look, user="0").stdout.split()
    allowed = [".venv", "LICENSE", "README.md", "bentofile.yaml", "bentos", "feature_repo", "flows", "prefect.yaml"]
    assert sorted(told) == sorted([*allowed, "pyproject.toml", "requirements.lock"])
    history = served.podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", flows_image)
    assert PLANTED not in history + served.podman("image", "inspect", flows_image)


def test_its_size_is_known(flows_image: str, served: Machine, tell: Tell) -> None:
    """Below 1.4 GB, and without what only tests need."""
    size = json.loads(served.podman("image", "inspect", flows_image))[0]["Size"]
    tell(f"image of the flows: {size / 1e6:.0f} MB")
    assert size < 1.4e9
    assert run(flows_image, "python", "-c", "import pytest").returncode == 1
