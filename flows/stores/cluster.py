"""A Kubernetes cluster through `kubectl`, in the context that its kubeconfig names."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import yaml

from flows.errors import ClusterError
from flows.stores.engines import LAST_LINES, Say

Object = dict[str, Any]
OWNER = "bentoflow"  # of the fields that are applied
PATIENCE_S = 60.0  # with a cluster that does not answer
FORWARDS = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")


def kubectl(*arguments: str, what: str, seconds: float = PATIENCE_S) -> str:
    """Standard output of a kubectl command; ClusterError with its complaints, or with what to install."""
    command = ["kubectl", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError as error:
        raise ClusterError("no kubectl found: install it, and let the current context name the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{what} was not done within {seconds:.0f} s") from error
    if done.returncode:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-LAST_LINES:])
        raise ClusterError(f"{what} failed with {done.returncode}; kubectl says:\n{said}")
    return done.stdout


def rendered(folder: Path) -> list[Object]:
    """The objects of a kustomization."""
    text = kubectl("kustomize", str(folder), what=f"rendering {folder}")
    return [item for item in yaml.safe_load_all(text) if item]


def apply(objects: Sequence[Object], *, say: Say) -> None:
    """Apply objects on the server's side; what somebody else changed of their fields is taken back."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(
            "\n---\n".join(map(json.dumps, objects))
        )  # JSON is YAML of which no reader makes a text something else
        file.flush()
        options = ["--server-side", "--force-conflicts", f"--field-manager={OWNER}", f"--filename={file.name}"]
        for line in kubectl("apply", *options, what=f"applying {len(objects)} objects").splitlines():
            say(line)


def find(item: Object) -> Object | None:
    """An object as the cluster has it, None if it has none of that kind and name."""
    found = kubectl("get", *named(item), "--ignore-not-found", "--output=json", what=f"asking for {named(item)[0]}")
    parsed: Object | None = json.loads(found) if found.strip() else None
    return parsed


def delete(item: Object, *, say: Say) -> None:
    """Remove an object without waiting for its pods to end; fine if there is none."""
    options = ["--ignore-not-found", "--wait=false"]
    for line in kubectl("delete", *named(item), *options, what=f"removing {named(item)[0]}").splitlines():
        say(line)


def await_rollout(item: Object, *, seconds: float, say: Say) -> None:
    """Wait until all pods of a Deployment are as applied, and ready; ClusterError when the cluster or time gives up."""
    wait = ["rollout", "status", *named(item), f"--timeout={seconds:.0f}s"]
    for line in kubectl(*wait, what=f"the rollout of {named(item)[0]}", seconds=seconds + PATIENCE_S).splitlines():
        say(line)


@contextmanager
def forwarded(item: Object, port: str | int) -> Iterator[str]:
    """Base URL on the loopback interface of one ready pod behind a Service or Deployment, while this lasts."""
    command = ["kubectl", "port-forward", "--address=127.0.0.1", *named(item), f":{port}"]
    with tempfile.TemporaryFile("w+") as said, _started(command, said) as process:
        late = Timer(PATIENCE_S, process.terminate)
        late.start()
        try:
            assert process.stdout is not None
            found = FORWARDS.search(process.stdout.readline())
            if found is None:
                process.wait(timeout=PATIENCE_S)
                said.seek(0)
                raise ClusterError(f"no way to {named(item)[0]}; kubectl says:\n{said.read().strip() or 'nothing'}")
            late.cancel()
            yield f"http://{found[1]}"
        finally:
            late.cancel()


@contextmanager
def _started(command: Sequence[str], said: Any) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def named(item: Mapping[str, Any]) -> list[str]:
    """An object as kubectl is told of it: kind/name and its namespace."""
    metadata = item["metadata"]
    namespace = [f"--namespace={metadata['namespace']}"] if "namespace" in metadata else []
    return [f"{item['kind'].lower()}/{metadata['name']}", *namespace]
