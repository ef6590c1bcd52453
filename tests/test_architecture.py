"""What holds the house up: who may import whom, and who may write."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dlcluster"
MODULES = sorted(PACKAGE.rglob("*.py"))
STAGES = ("spec", "launch", "worker", "results")
SHARED = {p.stem for p in PACKAGE.glob("*.py")} - {
    "cli",
    "cli_group",
    "pipeline",
    "pipeline_checks",
    "pipeline_start",
    "queries",
    "screen",
    "status_text",
    "sweep_call",
    "sweep_text",
    "doctor_text",
    "__main__",
}
LAZY_IN_WORKER = {"numpy": {"predictions.py"}, "torch": {"checkpoints.py"}}
ONLY_IN = {
    "yaml": {"spec/loader.py"},
    "torch": {"worker/checkpoints.py"},
    "submitit": {"launch/submitit_launcher.py"},
    "plotly": set(),
    "rich": {"screen.py", "results/tables.py", "results/terminal.py", "results/rendering.py"},
    "click": {
        "cli.py",
        "cli_group.py",
        *(f"commands/{name}.py" for name in ("options", "doctoring", "sweeping", "running", "showing")),
    },
    "tensorboard": {"event_files.py"},
}
NEVER = ("pickle", "cloudpickle", "marshal", "shelve", "dill", "sqlite3", "fcntl")
WRITING = re.compile(r"[wax+]")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports_of(tree: ast.AST) -> list[str]:
    """Every imported module, at the top or inside functions; those under TYPE_CHECKING aside."""
    found = []
    skipped = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [f"{node.module}.{a.name}" if node.module == "dlcluster" else node.module for a in node.names]
    return found


def violations(name: str, text: str) -> list[str]:
    """The rules of the house that a module's text breaks."""
    tree = ast.parse(text)
    found = [f"{name}: {problem}" for module in imports_of(tree) for problem in import_violations(name, module)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += call_violations(name, node)
    return found


def import_violations(name: str, module: str) -> list[str]:
    found = []
    stage = name.split("/")[0] if "/" in name and not name.startswith("commands/") else None
    parts = module.split(".")
    if parts[0] == "dlcluster" and len(parts) > 1 and stage:
        if parts[1] in STAGES and parts[1] != stage:
            found.append(f"stage {stage} imports stage {parts[1]}")
        if parts[1] not in (*STAGES, *SHARED, "__version__"):
            found.append(f"imports {module}, which knows the stages")
    if (parts[0] in ONLY_IN and name not in ONLY_IN[parts[0]]) or parts[0] in NEVER:
        found.append(f"imports {parts[0]}")
    is_own = parts[0] in sys.stdlib_module_names | {"dlcluster"}
    if stage == "worker" and not is_own and name.split("/")[1] not in LAZY_IN_WORKER.get(parts[0], set()):
        found.append(f"the worker imports {parts[0]}")
    return found


def call_violations(name: str, node: ast.Call) -> list[str]:
    called = ast.unparse(node.func)
    keywords = {k.arg: k.value for k in node.keywords}
    found = []
    if isinstance(keywords.get("shell"), ast.Constant) and keywords["shell"].value:
        found.append(f"{name}:{node.lineno}: shell=True")
    if called in ("eval", "exec", "os.system", "os.popen"):
        found.append(f"{name}:{node.lineno}: {called}")
    if name != "files.py" and opens_for_writing(called, node, keywords):
        found.append(f"{name}:{node.lineno}: {called} writes")
    return found


def opens_for_writing(called: str, node: ast.Call, keywords: dict[str | None, ast.expr]) -> bool:
    text = ast.unparse(node)
    if called == "open":
        mode = node.args[1] if len(node.args) > 1 else keywords.get("mode")
        return isinstance(mode, ast.Constant) and bool(WRITING.search(str(mode.value)))
    if called == "os.open":
        return any(flag in text for flag in ("O_WRONLY", "O_RDWR", "O_CREAT")) and "devnull" not in text
    return called.endswith((".write_text", ".write_bytes")) and not called.startswith("files.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_keep_the_rules(path):
    assert violations(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("launch/x.py", "from dlcluster.worker.run import Run"),
        ("spec/x.py", "def f():\n    import dlcluster.launch.plan"),
        ("results/x.py", "from dlcluster.pipeline import run_sweep"),
        ("worker/x.py", "import numpy"),
        ("launch/x.py", "import yaml"),
        ("launch/x.py", "open('a', 'w')"),
        ("launch/x.py", "path.write_text('a')"),
        ("launch/x.py", "os.open(path, os.O_WRONLY)"),
        ("launch/x.py", "subprocess.run('a', shell=True)"),
        ("results/x.py", "import pickle"),
        ("spec/x.py", "eval('1')"),
    ],
)
def test_a_planted_violation_is_found(name, text):
    assert violations(name, text)


def test_files_and_functions_stay_small():
    for path in MODULES:
        text = path.read_text()
        assert text.count("\n") <= 330, f"{name_of(path)} has {text.count(chr(10))} lines: a room is missing"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{name_of(path)}: {node.name} is too long"


HEAVY = ("torch", "pandas", "numpy", "scipy", "pydantic", "plotly")


@pytest.mark.parametrize("arguments", [["--help"], ["status", "nothing"]])
def test_start_up_imports_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys\nfrom dlcluster.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_is_in_the_readme():
    from dlcluster.cli import app

    readme = (ROOT / "README.md").read_text()
    for name in app.commands:
        assert f"dlcluster {name}" in readme, name
