"""The house style, where a machine can see it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "lmcl_core").glob("*.py"))
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTION)]


@every_module
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [*tree.body, *(item for cls in classes for item in cls.body)]:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@every_module
def test_a_function_fits_a_screen(path):
    for function in functions(path):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 40, f"{function.name} has {lines} lines"


@every_module
def test_a_module_has_one_idea(path):
    assert len(path.read_text().splitlines()) <= 350


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
    named = re.findall(r"`(\w+)`", (ROOT / "lmcl_core" / "README.md").read_text().split("|---|---|---|")[1])
    assert sorted(named) == sorted(path.stem for path in (ROOT / "lmcl_core").glob("[a-z]*.py"))


def test_the_readme_opens_with_the_two_commands_and_shows_figures_that_exist():
    text = (ROOT / "README.md").read_text()
    opening = "\n".join(text.splitlines()[:30])
    assert "make reproduce" in opening and "make test" in opening
    for target in re.findall(r"\]\(((?:figures|notebooks|lmcl_core|tests)/[^)#]*)", text):
        assert (ROOT / target).exists(), target
