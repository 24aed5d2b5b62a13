"""The house style, where a machine can see it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lmcl_core"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.read_text().strip())
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

#: The floors of the house: a module imports only from lower floors, or from its own folder.
FLOORS = [
    {"common"},
    {"data", "backbones"},
    {"runs"},
    {"crops", "model", "losses", "recipe", "trainer", "training", "inference", "evaluation", "hard_examples"},
    {"results"},
    {"scoring"},
    {"batch", "bench"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
METHOD = FLOORS[3]


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTION)]


def test_every_module_and_public_name_has_a_docstring():
    bare = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        named = [*tree.body, *(item for cls in classes for item in cls.body)]
        named = [node for node in named if isinstance(node, (*FUNCTION, ast.ClassDef)) and node.name[0] != "_"]
        bare += [path.name] * (not ast.get_docstring(tree))
        bare += [f"{path.name}: {node.name}" for node in named if not ast.get_docstring(node)]
    assert bare == []


def test_a_function_has_at_most_40_lines():
    long = []
    for path in MODULES:
        for function in functions(path):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            long += [f"{path.name}: {function.name} has {lines} lines"] if lines > 40 else []
    assert long == []


def test_a_module_has_at_most_350_lines():
    assert [str(path) for path in MODULES if len(path.read_text().splitlines()) > 350] == []


def rooms(path: Path) -> set[str]:
    """First parts below `lmcl_core` of what a module imports from the package, at any place in it."""
    here = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ()))
            found |= {base[0]} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lmcl_core":
            found |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lmcl_core.")}
    return found


def test_imports_go_one_way():
    wrong = []
    for path in MODULES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for room in rooms(path) - {own}:
            if not (FLOOR[room] < FLOOR[own] or {own, room} <= METHOD):
                wrong.append(f"{path.relative_to(ROOT)} imports {room}")
    assert wrong == []


def test_the_modules_of_the_method_do_not_import_in_a_circle():
    arrows = {name: rooms(PACKAGE / f"{name}.py") & METHOD for name in METHOD}
    while free := [name for name, wanted in arrows.items() if not wanted & set(arrows)]:
        for name in free:
            del arrows[name]
    assert not arrows


def test_the_root_holds_the_method_and_the_command_line_only():
    roots = {path.stem for path in PACKAGE.glob("*.py")}
    assert roots == METHOD | FLOORS[-1] | FLOORS[-2]
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOOR) - roots


@pytest.mark.parametrize(
    "statement, limit, absent",
    [
        ("import lmcl_core", 0.3, {"torch", "numpy", "pandas"}),
        ("import lmcl_core.cli", 0.5, {"torch", "pandas"}),
        ("import lmcl_core.batch.cluster, lmcl_core.scoring.many", 2, {"torch", "pandas", "distributed"}),
        pytest.param("import lmcl_core.batch.reproduce", 3, {"torch", "scipy"}, marks=pytest.mark.slow),
        pytest.param("import lmcl_core.results.plots", 5, {"torch"}, marks=pytest.mark.slow),
    ],
)
def test_a_first_answer_does_not_wait_for_heavy_imports(statement, limit, absent):
    code = f"import sys, time; s = time.perf_counter(); {statement}; print(time.perf_counter() - s, *sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(found[1:])
    assert float(found[0]) < 4 * limit  # a machine under test is slow; the absent modules are what counts


def test_the_public_contract_is_all_there():
    import lmcl_core

    for name in lmcl_core.__all__:
        assert getattr(lmcl_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lmcl_core.trian


def test_versions_are_pinned_once_and_exactly():
    pins = re.findall(r"^ +- ([\w.-]+)(==[\w.]+)?$", (ROOT / "environment.yml").read_text(), re.M)
    packages = [name for name, version in pins if name not in ("conda-forge", "pip")]
    assert len(packages) > 20 and all(version for name, version in pins if name in packages)
    assert "==" not in (ROOT / "pyproject.toml").read_text()


def test_the_map_of_the_package_names_every_module_once():
    named = re.findall(r"^\| `([\w/]+\.py)` \|", (PACKAGE / "README.md").read_text(), re.M)
    assert sorted(named) == sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("[a-z]*.py"))


def test_the_readme_opens_with_the_two_commands_and_shows_figures_that_exist():
    text = (ROOT / "README.md").read_text()
    opening = "\n".join(text.splitlines()[:30])
    assert "make reproduce" in opening and "make test" in opening
    for target in re.findall(r"\]\(((?:figures|notebooks|lmcl_core|tests)/[^)#]*)", text):
        assert (ROOT / target).exists(), target
