"""GitHub's workflows: linted, pinned, without rights or keys that they do not need, and each step a command of ours.

GitHub itself has not run them. What a step calls is checked against what it would find: targets of the Makefile,
deployments and parameters of the flows, options of our own commands.
"""

import ast
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prefect.cli.deployment import deployment_app

from flows import usecases
from flows.cli import app
from tests.infra import tools

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
ACTIONS = sorted(ROOT.glob(".github/actions/*/action.yml"))
PINNED = re.compile(r"^[\w-]+/[\w./-]+@[0-9a-f]{40}$")
OF_THE_RUNNER = {"apt-get", "cat", "gh", "git"}  # run by hand, see infra/github/README.md; the rest is ours
PLANTED = """
on: {pull_request_target: {types: [opened]}}
jobs:
  planted:
    runs-on: ubuntu-24.04
    steps:
      - uses: actions/checkout@v4
        with: {ref: "${{ github.head_ref }}"}
      - run: echo ${{ github.event.pull_request.title }}
      - run: echo "$X"
        env: {X: "${{ steps.nowhere.outputs.x }}"}
"""


def steps(path: Path) -> Iterator[dict[str, Any]]:
    """Every step of a workflow or of a composite action."""
    found = yaml.safe_load(path.read_text())
    for job in found.get("jobs", {"": found.get("runs")}).values():
        yield from job["steps"]


def lines() -> list[str]:
    """Every command of a step, each use case in the place of $USE_CASE."""
    found = [step["run"] for path in (*WORKFLOWS, *ACTIONS) for step in steps(path) if "run" in step]
    return sorted({line.replace("$USE_CASE", name) for line in found for name in usecases.known()})


@cache
def deployments() -> dict[str, set[str]]:
    """The parameters of each deployment, by flow and name."""
    found = {}
    for deployed in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        file, function = deployed["entrypoint"].split(":")
        body = ast.parse((ROOT / file).read_text()).body
        (flow,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == function)
        found[f"{function}/{deployed['name']}"] = {argument.arg for argument in flow.args.args}
    return found


def linted(folder: Path) -> tuple[int, str]:
    """What actionlint and zizmor say of a repository; the sum of their exit codes and their words."""
    binaries = tools.locked(tools.WORKFLOWS)
    said, code = "", 0
    for command in (["actionlint", "-no-color"], ["zizmor", "--offline", "--no-progress", "--color=never", ".github"]):
        done = subprocess.run([binaries / command[0], *command[1:]], cwd=folder, capture_output=True, text=True)
        said, code = said + done.stdout + done.stderr, code + done.returncode
    return code, said


def test_linters_find_nothing_in_ours_and_something_in_what_is_planted(tmp_path: Path) -> None:
    """actionlint and zizmor; an unpinned action, an injection and an unknown step are each named."""
    code, said = linted(ROOT)
    assert code == 0, said
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".github" / "workflows" / "planted.yml").write_text(PLANTED)
    code, said = linted(tmp_path)
    assert code
    for rule in ("unpinned-uses", "template-injection", "dangerous-triggers", 'property "nowhere" is not defined'):
        assert rule in said


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_actions_are_pinned_by_commit_or_are_our_own(path: Path) -> None:
    """Each by its whole commit with the version beside it; one of ours exists and is given what it asks for."""
    for step in steps(path):
        if (used := step.get("uses", "")).startswith("$/"):
            wanted = yaml.safe_load((ROOT / used[2:] / "action.yml").read_text()).get("inputs", {})
            assert step.get("with", {}).keys() == wanted.keys()
        elif used:
            assert PINNED.match(used), used
            assert re.search(rf"{re.escape(used)} # v\d+\.\d+\.\d+$", path.read_text(), flags=re.M), used
    images = re.findall(r"^ +image: (.+)$", path.read_text(), flags=re.M)
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_key_and_no_right_that_it_does_not_need(path: Path) -> None:
    """No secret; no right but reading, save a comment's and, in a named environment, a token for a role; bounded."""
    text, found = path.read_text(), yaml.safe_load(path.read_text())
    assert "secrets." not in text
    assert found["permissions"] == {}
    assert found["concurrency"]["group"]
    for name, job in found["jobs"].items():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes <= {"id-token", "pull-requests"}, name
        assert ("id-token" in writes) == ("environment" in job), name
        assert 0 < job["timeout-minutes"] <= 120, name
        if "pull-requests" in writes:  # whoever may write runs nothing of the pull request
            assert not [step for step in job["steps"] if "checkout" in step.get("uses", "") or "$/" in str(step)]


@pytest.mark.parametrize("line", lines())
def test_a_step_is_one_command_that_its_machine_has(line: str) -> None:
    """Targets, deployments, parameters, modules and options that a step names are there."""
    assert not re.search(r"\n|&&|\||;", line), "one command a step"
    assert "${{" not in line
    command, *words = shlex.split(re.sub(r">+ .*", "", line))
    match Path(command).name, words:
        case "make", _:
            assert subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True).returncode == 0
        case "run", []:
            assert os.access(ROOT / command, os.X_OK)
        case "prefect", ["deployment", "run", name, *rest]:
            _, bound, _ = deployment_app.parse_args(["run", name, *rest], exit_on_error=False)
            assert {text.split("=")[0] for text in bound.arguments.get("params", [])} <= deployments()[name]
            assert bound.arguments["watch"]
            assert bound.arguments["watch_timeout"]
        case "bentoflow", [verb, *rest]:
            group: Any = typer.main.get_command(app)
            group.commands[verb].make_context(verb, rest)
        case "python", ["-m", module, *_]:
            assert (ROOT / Path(*module.split(".")).with_suffix(".py")).is_file()
        case tool, _:
            assert tool in OF_THE_RUNNER, line


@pytest.mark.parametrize("name", ["train", "release"])
def test_a_dispatch_offers_every_use_case(name: str) -> None:
    """And what it starts by default is one of them."""
    inputs = yaml.safe_load((FOLDER / f"{name}.yml").read_text())[True]["workflow_dispatch"]["inputs"]
    assert set(inputs["use_case"]["options"]) == set(usecases.known())
    assert inputs["use_case"]["default"] in usecases.known()


def test_production_waits_for_staging_and_rollback_for_a_release() -> None:
    """Staging, production, and back only by hand or where the release went through and what followed failed."""
    jobs = yaml.safe_load((FOLDER / "release.yml").read_text())["jobs"]
    assert [job["environment"]["name"] for job in jobs.values()] == ["staging", "production", "production"]
    assert (jobs["production"]["needs"], jobs["rollback"]["needs"]) == ("staging", "production")
    assert "needs.production.outputs.released == 'success'" in jobs["rollback"]["if"]
    for job in jobs.values():
        assert "tests.deployed" in job["steps"][-1]["run"], "asked from outside after every change"
