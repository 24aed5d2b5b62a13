"""Check the parameters of a notebook against its parameters cell."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

from ..common.errors import InputError, unknown
from ..common.paths import project_folder

_KINDS = dict(str=str, int=int, float=(int, float), bool=bool, dict=dict)
_HINTS = dict(bool="; with papermill write True or False", str="; papermill passes text with -r NAME VALUE")


def check_parameters(notebook: str | Path, values: Mapping[str, Any]) -> None:
    """Refuse unknown parameters, and values of the wrong type.

    Papermill only warns of an unknown name, and ``-p overwrite false`` passes the string "false", which counts as true.
    A notebook therefore begins with ``check_parameters("02_training", globals())``.

    `notebook` is the name of one in ``notebooks/`` without suffix, or the path of one. `values` are parameters by name,
    or the variables of a running notebook. InputError: a name that the parameters cell does not have, or a value of
    another type than stated there.
    """
    path = notebook if isinstance(notebook, Path) else project_folder() / "notebooks" / f"{notebook}.ipynb"
    kinds = parameter_kinds(path)
    names = _injected(values["In"]) if "In" in values else values  # IPython keeps the executed cells in `In`
    for name in names:
        if name not in kinds:
            raise unknown(f"parameter of {path.name}", name, kinds)
    for name, kind in kinds.items():
        if name in values and kind and not any(_is_a(values[name], one) for one in kind.split(" or ")):
            value = f"{short_repr(values[name])} of type {type(values[name]).__name__}"
            raise InputError(f"parameter {name} of {path.name} is {value}: it must be {kind}{_HINTS.get(kind, '')}")


def parameter_kinds(notebook: Path) -> dict[str, str]:
    """Types of a notebook's parameters, from the annotations of its parameters cell: ``split: int or str = 0``.

    Unions are written with ``or``, which papermill's help can read. Without an annotation it is the type of the
    default; "" for None, which stands for any type.
    """
    cells = json.loads(notebook.read_text())["cells"]
    source = "".join(next(cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])))
    kinds = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            kinds[node.target.id] = " or ".join(_names(node.annotation))
        else:
            default = ast.literal_eval(node.value)
            kinds[node.targets[0].id] = "" if default is None else type(default).__name__
    return kinds


def _injected(cells: list[str]) -> list[str]:
    """Names assigned in the cells that papermill inserts, which begin with "# Parameters"; in the last such group."""
    groups = [list(group) for found, group in groupby(cells, lambda cell: cell.startswith("# Parameters")) if found]
    return [name for cell in groups[-1] for name in _names(ast.parse(cell), ast.Store)] if groups else []


def _names(tree: ast.AST, context: type[ast.expr_context] = ast.Load) -> list[str]:
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)]


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS.get(kind, object)) and (kind == "bool" or not isinstance(value, bool))
