"""The rules of the layout: who may import whom, how long a module may be, and what nothing may name."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"flows", "bentos", "feature_repo", "infra", "tests"}
MAX_LINES = 300
SAYS_NOTHING = {"utils", "helpers", "common", "base", "manager", "handler", "misc"}
ONE_IMPORTER = {  # tool -> the modules that may import it, on either side
    "feast": {"flows/stores/features.py", "bentos/runtime/features/online.py"},
    "mlflow": {"flows/stores/registry.py", "flows/stores/pyfunc.py"},
    "whylogs": {"flows/stores/profiles/whylogs.py"},
    "whylogs_sketching": {"flows/stores/profiles/whylogs.py"},
    "datasketches": {"flows/stores/profiles/datasketches.py"},
}


def modules(*folders: str) -> list[Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def use_cases() -> set[str]:
    """Names of the modules that declare a use case; those beside them are what declarations are made of."""
    return {p.stem for p in modules("flows/usecases") if re.search(r"^USE_CASE = ", p.read_text(), flags=re.M)}


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    return listed.stdout.split()


def test_only_the_fixed_folders_stand_at_the_top() -> None:
    """The top-level layout is fixed."""
    found = {name.split("/")[0] for name in tracked() if "/" in name}
    assert {f for f in found if not f.startswith(".")} <= FOLDERS


@pytest.mark.parametrize("path", modules("bentos"), ids=name_of)
def test_bentos_know_nothing_of_flows(path: Path) -> None:
    """Services import neither flows, feature definitions, nor the tools of training."""
    assert not tops(path) & {"flows", "feature_repo", "prefect", "mlflow", "whylogs", "sklearn", "optuna"}


@pytest.mark.parametrize("path", modules("flows"), ids=name_of)
def test_flows_reach_into_the_runtime_only(path: Path) -> None:
    """Of bentos, flows import the runtime alone; feature definitions only through Feast."""
    from_bentos = {n for n in imported(path) if n.split(".")[0] == "bentos"} - {"bentos"}
    assert all(n.startswith("bentos.runtime") for n in from_bentos)
    assert "feature_repo" not in tops(path)


@pytest.mark.parametrize("path", modules("flows/steps", "bentos/runtime", "flows/usecases"), ids=name_of)
def test_pure_modules_start_at_once(path: Path) -> None:
    """Steps, use cases and the runtime import no orchestrator, registry or server framework."""
    assert not tops(path) & {"prefect", "mlflow", "whylogs", "bentoml", "httpx", "requests", "sqlalchemy"}


@pytest.mark.parametrize("tool", sorted(ONE_IMPORTER))
def test_each_tool_has_one_importer_per_side(tool: str) -> None:
    """Feast, MLflow and whylogs are each spoken to in one place."""
    found = {name_of(p) for p in modules("flows", "bentos") if tool in tops(p)}
    assert found <= ONE_IMPORTER[tool]


def test_use_cases_never_import_each_other() -> None:
    """A use case can be removed without touching another."""
    names = use_cases()
    assert names == {p.stem for p in modules("feature_repo")} - {"__init__"}
    for path in modules("flows/usecases", "feature_repo"):
        others = names - {path.stem}
        assert not {n.split(".")[-1] for n in imported(path)} & others


@pytest.mark.parametrize("path", modules("flows", "bentos", "feature_repo"), ids=name_of)
def test_modules_stay_small_and_named_by_a_noun(path: Path) -> None:
    """A module over the limit holds two nouns; a name like utils holds none."""
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in SAYS_NOTHING


def test_generic_code_names_no_use_case() -> None:
    """A use case is mentioned in its own three files, in the demos and as a default, never in generic logic."""
    demos = {f"flows/demos/{part}.py" for part in ("loop", "chapters", "episodes", "evidence")} | {
        "flows/steps/pages/narrative.py"
    }
    names = use_cases()
    assert names >= {"churn", "fraud"}
    own = demos | {f"{folder}/{name}.py" for folder in ("flows/usecases", "bentos") for name in names}
    default = re.compile(r'use_case(: \w+)? ?= ?"churn"|or "churn"')
    for path in modules("flows", "bentos"):
        code = ast.unparse(ast.parse(path.read_text())).replace("'", '"')
        lines = [line for line in code.splitlines() if '"""' not in line]
        left = [line for line in lines if any(name in default.sub("", line) for name in names)]
        assert name_of(path) in own or not left, f"{name_of(path)} names a use case: {left}"


def test_importing_the_service_leaves_training_tools_out() -> None:
    """A service starts without prefect, mlflow and whylogs, and without what only a drift check needs."""
    tools = ("prefect", "mlflow", "whylogs", "scipy", "bentos.runtime.monitoring")
    code = f"import bentos.service, sys; print([m for m in {tools} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_lock_with_addresses_and_no_local_path_is_tracked() -> None:
    """Nothing of the machine that a commit was made on gets into the repository."""
    names = tracked()
    assert "uv.lock" not in names
    assert "://" not in (ROOT / "requirements.lock").read_text()
    assert not [n for n in names if n.startswith(".bentoflow/")]
