"""The house rules that a machine can check: floors, purity, sizes, what is never loaded or swallowed."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("flows", "tasks", "raft_core")
LAUNCH = ("raft_core/launch/processes.py", "raft_core/launch/forkserver.py")
"""Both ends of the pipe to the training child: they set its environment, and pickle only over that pipe."""
SERVER = "flows/orchestration/server.py"
"""Sets the environment of Prefect's temporary server."""
REWARDS = "raft_core/rewards/surroundings.py"
"""Puts the environment back as it was before somebody else's code ran."""
READS_ENVIRONMENT = (
    "flows/process/environment.py",
    "flows/cli/commands/",
    "raft_core/examples/",
    "raft_core/experts/",
    SERVER,
    REWARDS,
    *LAUNCH,
)
HEAVY = {
    "accelerate",
    "datasets",
    "deepspeed",
    "diffusers",
    "dvc",
    "great_expectations",
    "mlflow",
    "pandas",
    "peft",
    "prefect",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
}
CARRIES_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
MAX_FILE_LINES, MAX_TEST_FILE_LINES, MAX_FUNCTION_LINES = 380, 550, 60

Offence = tuple[int, str]
Check = Callable[[ast.Module], Iterator[Offence]]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offences(check: Check, *folders: str, but: tuple[str, ...] = ()) -> list[str]:
    """``file:line what`` of everything in ``folders`` that ``check`` finds, but in files that start with ``but``."""
    return [
        f"{name(path)}:{line} {what}"
        for path in sources(*folders)
        if not name(path).startswith(but)
        for line, what in check(tree(path))
    ]


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of names and attributes; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def imported(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the floors ------------------------------------------------------------------------------------


def test_import_contracts_hold() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["type"] for contract in contracts} >= {"layers", "forbidden"}
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout


def test_every_floor_is_there() -> None:
    assert all(sources(floor) for floor in FLOORS)


@pytest.mark.parametrize("module", ["raft_core.types", "raft_core.errors"])
def test_the_facts_need_the_standard_library_alone(module: str) -> None:
    code = f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    loaded = {part.split(".")[0] for part in python(code).split()}
    assert loaded - set(sys.stdlib_module_names) == {"raft_core"}


@pytest.mark.parametrize(
    "module",
    [
        "raft_core.config.run",
        "raft_core.config.loading",
        "raft_core.records.run",
        "raft_core.rewards.base",
        "flows.cli.app",
    ],
)
def test_what_starts_quickly_loads_nothing_heavy(module: str) -> None:
    loaded = {part.split(".")[0] for part in python(f"import sys, {module}; print(*sys.modules)").split()}
    assert loaded & HEAVY == set()


# -- what comes from elsewhere --------------------------------------------------------------------


def canonical(requirement: str) -> str:
    """The name in a requirement, as https://packaging.python.org/specifications/name-normalization writes it."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return {canonical(requirement) for group in groups for requirement in group}


@cache
def brought_by() -> Mapping[str, list[str]]:
    """Importable name → the distributions that have it."""
    return packages_distributions()


def undeclared(module: ast.Module, known: Set[str]) -> Iterator[Offence]:
    """Imports of packages that are neither Python's nor ours nor brought by a distribution in ``known``."""
    for line, full in imported(module):
        top = full.partition(".")[0]
        if top in sys.stdlib_module_names or top in FLOORS:
            continue
        if not {canonical(name) for name in brought_by().get(top, [top])} & known:
            yield line, top


def test_every_package_that_is_imported_is_declared() -> None:
    known = declared("postgres", "ray", "s3", "exports")
    assert offences(lambda module: undeclared(module, known), *FLOORS) == []


def test_every_declared_package_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line) for line in lines if "==" in line}
    assert declared("postgres", "ray", "s3", "exports", "test") - pinned == set()


def file_locks(module: ast.Module) -> Iterator[Offence]:
    yield from ((line, full) for line, full in imported(module) if full.split(".")[0] in ("fcntl", "filelock"))


def test_locks_are_made_in_one_place() -> None:
    assert offences(file_locks, *FLOORS, but=("raft_core/files/locks.py",)) == []


# -- purity ----------------------------------------------------------------------------------------


def environment(module: ast.Module) -> Iterator[Offence]:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(module):
        if (full := dotted(node)).startswith("os.") and full.split(".")[1] in names and full.count(".") == 1:
            yield node.lineno, full
    yield from ((line, full) for line, full in imported(module) if full.removeprefix("os.") in names)


def test_the_environment_is_read_in_few_places() -> None:
    assert offences(environment, *FLOORS, but=READS_ENVIRONMENT) == []


def global_randomness(module: ast.Module) -> Iterator[Offence]:
    streams = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "BitGenerator"}
    modules = {full for _, full in imported(module)}
    for node in ast.walk(module):
        full = dotted(node).replace("numpy.", "np.")
        if full.startswith("np.random.") and full.split(".")[2] not in streams:
            yield node.lineno, full
        if "random" in modules and full.startswith("random.") and full != "random.Random":
            yield node.lineno, full


def test_no_global_random_state() -> None:
    assert offences(global_randomness, *FLOORS) == []


def foreign_code(module: ast.Module) -> Iterator[Offence]:
    for line, full in imported(module):
        if full.split(".")[0] in CARRIES_CODE or full == "torch.load":
            yield line, f"imports {full}"
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
            yield node.lineno, "torch.load"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and is_true(node.value):
            yield node.value.lineno, "trust_remote_code=True"


def is_true(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_nothing_is_loaded_that_can_carry_code() -> None:
    assert offences(foreign_code, *FLOORS, but=LAUNCH) == []


def starts_in_the_current_folder(module: ast.Module) -> Iterator[Offence]:
    """Commands that start Python without -P or -I: its modules would be looked for in the current folder first."""
    for node in ast.walk(module):
        if not isinstance(node, ast.List | ast.Tuple):
            continue
        for word, after in zip(node.elts, [*node.elts[1:], None], strict=False):
            safe = isinstance(after, ast.Constant) and after.value in ("-P", "-I")
            if dotted(word) == "sys.executable" and not safe:
                yield word.lineno, "sys.executable without -P or -I: see raft_core.launch.children"


def test_no_child_looks_for_modules_in_the_current_folder() -> None:
    assert offences(starts_in_the_current_folder, *FLOORS, "benchmarks") == []


def swallowed(module: ast.Module) -> Iterator[Offence]:
    everything = {"Exception", "BaseException"}
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            caught = {dotted(part) for part in ast.walk(node.type)} if node.type else everything
            silent = all(isinstance(s, ast.Pass | ast.Continue | ast.Break) or is_ellipsis(s) for s in node.body)
            if node.type is None or (silent and caught & everything):
                yield node.lineno, "an error that nobody hears of"
        suppresses = isinstance(node, ast.Call) and dotted(node.func).endswith("suppress")
        if suppresses and {dotted(argument) for argument in node.args} & everything:
            yield node.lineno, "suppress(Exception)"


def is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def test_no_error_is_swallowed() -> None:
    assert offences(swallowed, *FLOORS, "tests") == []


# -- readability -----------------------------------------------------------------------------------


def test_files_stay_small() -> None:
    limits = [(MAX_FILE_LINES, sources(*FLOORS)), (MAX_TEST_FILE_LINES, sources("tests"))]
    lengths = [(limit, name(p), len(p.read_text().splitlines())) for limit, paths in limits for p in paths]
    assert [f"{path}: {num} lines" for limit, path, num in lengths if num > limit] == []


def long_functions(module: ast.Module) -> Iterator[Offence]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num = (node.end_lineno or node.lineno) - node.lineno + 1
            if num > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name}: {num} lines"


def test_functions_stay_small() -> None:
    assert offences(long_functions, *FLOORS) == []


def undocumented(module: ast.Module) -> Iterator[Offence]:
    if module.body and not ast.get_docstring(module):
        yield 1, "module"

    def inside(body: list[ast.stmt]) -> Iterator[Offence]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name[0] == "_":
                continue
            if not ast.get_docstring(node):
                yield node.lineno, node.name
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body)

    yield from inside(module.body)


def test_what_is_public_says_what_it_does() -> None:
    assert offences(undocumented, "raft_core") == []


def vague(module: ast.Module) -> Iterator[Offence]:
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Handler", "Helper", "Utils")):
            yield node.lineno, node.name


def test_names_say_what_a_thing_is() -> None:
    assert offences(vague, *FLOORS) == []
    assert [name(p) for p in sources(*FLOORS) if p.stem in {"utils", "helpers", "common", "misc"}] == []


# -- the checks themselves find what they look for -----------------------------------------------


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (environment, "import os\nx = os.environ['A']"),
        (environment, "from os import getenv"),
        (global_randomness, "import numpy as np\nnp.random.seed(0)"),
        (global_randomness, "import random\nrandom.shuffle([])"),
        (foreign_code, "import pickle"),
        (starts_in_the_current_folder, "run([sys.executable, '-m', 'dvc'])"),
        (starts_in_the_current_folder, "run((sys.executable,))"),
        (foreign_code, "from joblib import load"),
        (foreign_code, "import torch\ntorch.load('x')"),
        (foreign_code, "f(trust_remote_code=True)"),
        (swallowed, "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed, "try:\n    f()\nexcept (OSError, BaseException):\n    ..."),
        (swallowed, "try:\n    f()\nexcept:\n    raise"),
        (swallowed, "with contextlib.suppress(Exception):\n    f()"),
        (long_functions, "def f():\n" + "    x = 1\n" * 60),
        (undocumented, '"""m"""\nclass A:\n    """a"""\n    def f(self): ...'),
        (undocumented, "x = 1"),
        (vague, "class RunManager: ..."),
        (file_locks, "def f():\n    import fcntl"),
        (lambda module: undeclared(module, declared()), "import yaml, somebody.elses"),
        (lambda module: undeclared(module, set()), "def f():\n    from yaml import x"),
    ],
)
def test_a_check_finds(check: Check, code: str) -> None:
    assert list(check(ast.parse(code)))


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (environment, "import os\nos.replace('a', 'b')\nenviron = 1"),
        (global_randomness, "import numpy as np\nrandom = np.random.default_rng(0)\nrandom.normal()"),
        (starts_in_the_current_folder, "run([sys.executable, '-P', '-m', 'dvc'])\nPath(sys.executable)"),
        (foreign_code, "f(trust_remote_code=False)\nsafetensors.load('x')"),
        (swallowed, "try:\n    f()\nexcept OSError:\n    pass\nwith suppress(OSError):\n    f()"),
        (lambda module: undeclared(module, declared()), "import os, yaml, raft_core.x\nfrom sklearn import y"),
        (undocumented, '"""m"""\nclass _A: ...\ndef f():\n    """f"""\n    def inner(): ...'),
    ],
)
def test_a_check_leaves_alone(check: Check, code: str) -> None:
    assert list(check(ast.parse(code))) == []
