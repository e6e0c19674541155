"""Terraform for the tests: a copy of the modules with a local state, the provider from a mirror or from its registry.

No package registry has terraform or its providers, so CI cannot install them; where they are not there, tests skip.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.tools import ROOT

MODULES = ROOT / "infra" / "terraform"
PLACES = ("~/.terraform.d/plugins", "/usr/local/share/terraform/plugins", "/opt/*")  # of mirrors of providers
PROVIDER = "registry.terraform.io/hashicorp/aws"
MIRROR = """provider_installation {{
  filesystem_mirror {{
    path    = "{mirror}"
    include = ["{provider}"]
  }}
}}
"""
LOCAL = 'terraform {\n  backend "local" {}\n}\n'


@dataclass(frozen=True)
class Terraform:
    """The command in a folder of its own that holds the modules, initialised."""

    folder: Path
    env: Mapping[str, str]

    def __call__(self, *arguments: str, seconds: float = 240) -> str:
        """Standard output of a subcommand; AssertionError with the end of what it said if it fails."""
        done = subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"terraform {arguments}:\n{(done.stdout + done.stderr)[-4000:]}"
        return done.stdout


def initialised(folder: Path) -> Terraform:
    """Terraform with the AWS provider, in a copy of the modules; skips where one of the two cannot be had."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed, and no package registry has it: modules are read by checkov alone")
    shutil.copytree(MODULES, folder, ignore=shutil.ignore_patterns(".terraform*"), dirs_exist_ok=True)
    (folder / "backend_override.tf").write_text(LOCAL)
    env = {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_CLI_ARGS": "-no-color", "TF_INPUT": "0"}
    rc = folder / "terraform.rc"
    mirror = next((m for place in PLACES for m in glob(place) if (m / PROVIDER).is_dir()), None)
    rc.write_text(MIRROR.format(mirror=mirror, provider=PROVIDER) if mirror else "")
    found = Terraform(folder, {**env, "TF_CLI_CONFIG_FILE": str(rc)})
    try:
        found("init", seconds=120)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the AWS provider cannot be had: {str(error)[-300:]}")
    return found


def glob(place: str) -> list[Path]:
    """The folders that a place with wildcards names."""
    path = Path(place).expanduser()
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
