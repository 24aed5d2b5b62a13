"""Check the parameters of a notebook against its parameters cell."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import InputError, unknown
from ..common.paths import project_folder

_KINDS = dict(str=str, int=int, float=(int, float), bool=bool)
_TYPE_COMMENT = re.compile(r"\s*#\s*(\w+(?: or \w+)*):")


def check_parameters(notebook: str | Path, values: Mapping[str, Any]) -> None:
    """Refuse unknown parameters, and values of the wrong type.

    Papermill only warns of an unknown name, and ``-p overwrite false`` passes the string "false", which counts as true.
    A notebook therefore begins with ``check_parameters("02_training", globals())``.

    Args:
        notebook: name of a notebook in ``notebooks/`` without suffix, or the path of one.
        values: parameters by name; or the variables of a running notebook, of which the parameters are checked.

    Raises:
        InputError: a name that the parameters cell does not have, or a value of another type than stated there.
    """
    path = notebook if isinstance(notebook, Path) else project_folder() / "notebooks" / f"{notebook}.ipynb"
    kinds = parameter_kinds(path)
    names = _injected(values["In"]) if "In" in values else values  # IPython keeps the executed cells in `In`
    for name in names:
        if name not in kinds:
            raise unknown(f"parameter of {path.name}", name, kinds)
    for name, kind in kinds.items():
        if name in values and kind and not any(_is_a(values[name], one) for one in kind.split(" or ")):
            hint = "; with papermill write True or False" if kind == "bool" else ""
            value = f"{values[name]!r} of type {type(values[name]).__name__}"
            raise InputError(f"parameter {name} of {path.name} is {value}: it must be {kind}{hint}")


def parameter_kinds(notebook: Path) -> dict[str, str]:
    """Type names of a notebook's parameters, from the comments of its parameters cell: ``splits = 3  # int: ...``.

    Without such a comment it is the type of the default; "" for None, which stands for any type.
    """
    cells = json.loads(notebook.read_text())["cells"]
    source = "".join(next(cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])))
    lines, kinds = source.splitlines(), {}
    for node in ast.parse(source).body:
        comment = _TYPE_COMMENT.match(lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode())
        default = ast.literal_eval(node.value)
        kinds[node.targets[0].id] = comment[1] if comment else "" if default is None else type(default).__name__
    return kinds


def _injected(cells: list[str]) -> list[str]:
    """Names assigned in the cell that papermill inserts, which begins with "# Parameters"."""
    source = next((cell for cell in cells if cell.startswith("# Parameters")), "")
    return [target.id for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets]


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS.get(kind, object)) and (kind == "bool" or not isinstance(value, bool))
