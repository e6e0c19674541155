"""Where a version came from: the commit of the code and the hash of the locked dependencies."""

import hashlib
import os
import subprocess
from functools import cache

from flows.environment import ROOT


@cache
def commit() -> str:
    """Commit of the checkout, with `+dirty` where tracked files differ; outside one BENTOFLOW_COMMIT, or `unknown`.

    An image of the flows has no checkout, and that variable from its build.
    """
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("BENTOFLOW_COMMIT") or "unknown"
    return head.stdout.strip() + ("+dirty" if dirty.returncode else "")


@cache
def lock_hash() -> str:
    """sha256 of requirements.lock, first 16 hex digits; `unknown` where the file is not shipped."""
    path = ROOT / "requirements.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else "unknown"
