"""Read label files (.csv, .xlsx, .txt, .mat). Names are matched ignoring case; every failure is a `FaultError`."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import InputError, first_line
from .faults import AGAIN, Fault, FaultError, bad_row, first_few
from .matlab import read_mat

EXCEL = "in Excel, save it as CSV UTF-8 (comma delimited), with decimal points"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_HEADER_ROWS = 30  # the header of a table is searched for in its first rows
_MOST_CELLS = 20_000_000  # of a sheet; a cell takes about 60 bytes


def find(folder: Path, name: str) -> Path | None:
    """Find a file or folder by its relative name, ignoring case. Returns its path as spelled on disk, or None."""
    if os.path.exists(folder / name):
        return folder / name
    for part in name.split("/"):
        _, folders, files = next(os.walk(folder), ("", [], []))
        same = [spelling for spelling in folders + files if spelling.lower() == part.lower()]
        if not same:
            return None
        folder /= min(same)
    return folder


def label_file(folder: Path, *names: str, fix: str = "unpack the archive again, with its label files") -> Path:
    """Path of the first of `names` that exists in a folder.

    If there is none, a missing_label_file fault with the first name and `fix`.
    """
    for name in names:
        if (path := find(folder, name)) and path.is_file():
            return path
    raise FaultError(Fault("missing_label_file", str(folder / names[0]), fix))


def read_columns(path: Path, columns: Sequence[str], fix: str = AGAIN) -> pd.DataFrame:
    """Read some columns of a .csv or .xlsx file whose header is one of its first 30 rows.

    Names are compared ignoring case and surrounding blanks; of several sheets with the columns, the longest is read.
    All cells are returned as stripped text (str), with 1600.0 as "1600"; rows that are blank in all columns are left
    out. A file that is not a table is a missing_label_file fault; a missing column is a bad_label_column fault.
    """
    grids = _grids(path, fix)
    wanted = [name.lower() for name in columns]
    best, header = [], []
    for grid in grids:
        for place, row in enumerate(grid[:_HEADER_ROWS]):
            heads = [cell_text(cell).lower() for cell in row]
            if set(wanted) <= set(heads) and len(grid) - place > len(best):
                best, header = grid[place + 1 :] or [[]], heads
    if not header:
        check_separator(path, (",".join(map(cell_text, row)) for grid in grids for row in grid[:_HEADER_ROWS]), columns)
        raise FaultError(_missing_column(path, grids, columns, fix))
    if path.suffix.lower() != ".xlsx" and (long := [row for row in best if any(row[len(header) :])]):
        problem = f"{len(long)} rows have more cells than the header, perhaps by decimal commas"
        raise FaultError(bad_row(path, [",".join(row)[:60] for row in long], f"{problem}: {fix}; {EXCEL}"))
    positions = [header.index(name) for name in wanted]
    cells = [[cell_text(row[i]) if i < len(row) else "" for i in positions] for row in best]
    rows = pd.DataFrame([row for row in cells if any(row)], columns=list(columns), dtype=str)
    if rows.empty:
        raise FaultError(Fault("missing_label_file", str(path), f"no row below the header: {fix}"))
    check_decimals(path, rows)
    return rows


def read_words(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a text file without header, one word (str) per column in every line; blank lines are left out.

    If no line has the right number of words, it is a bad_label_column fault; if only some lines are wrong, a
    bad_label_row fault.
    """
    lines = [(n, line.split()) for n, line in enumerate(_read_lines(path, AGAIN), 1) if line.strip()]
    odd = [f"line {n}" for n, words in lines if len(words) != len(columns)]
    fix = f"each line must hold {' and '.join(columns)}: {AGAIN}"
    if len(odd) == len(lines):
        # the first column that line 1 lacks, or the first that it has too many
        column = [*columns, f"column {len(columns) + 1}"][min(len(lines[0][1]), len(columns))]
        raise FaultError(Fault("bad_label_column", f"{path}: {column}", fix))
    if odd:
        raise FaultError(bad_row(path, odd, fix))
    rows = pd.DataFrame([words for _, words in lines], columns=list(columns), dtype=str)
    check_decimals(path, rows)
    return rows


def read_text(path: Path) -> str:
    """Text of a label file in UTF-8; a file in UTF-16 is a missing_label_file fault."""
    content = path.read_bytes()
    start = content[:200]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or len(start) > 7 and not (any(start[1::2]) and any(start[::2])):
        problem = "it is text in UTF-16, as Excel writes Unicode text"
        raise FaultError(Fault("missing_label_file", str(path), f"{problem}: {EXCEL}"))
    return content.decode("utf-8-sig")


def check_separator(path: Path, lines: Iterable[str], columns: Iterable[str]) -> None:
    """Raise a bad_label_column fault if one of some lines is a header whose columns commas do not separate."""
    wanted = {name.lower() for name in columns}
    for line in lines:
        for separator, name in _SEPARATORS.items():
            cells = {cell.strip(' "').lower() for cell in line.split(separator)}
            if len(cells) > 1 and wanted <= cells:
                problem = f"its columns are separated by {name}, not by commas"
                raise FaultError(Fault("bad_label_column", str(path), f"{problem}: {EXCEL}"))


def check_decimals(path: Path, rows: pd.DataFrame) -> None:
    """Raise a bad_label_row fault if cells (str) are numbers with decimal commas, such as 3,5."""
    if odd := [cell for cell in rows.to_numpy().ravel() if _DECIMAL_COMMA.fullmatch(cell)]:
        raise FaultError(bad_row(path, odd, f"{len(odd)} numbers are written with decimal commas: {EXCEL}"))


def mat_column(path: Path, variable: str, fix: str = AGAIN) -> np.ndarray:
    """Read a variable of a .mat file as an array (n,) of its own dtype; bad_label_column if there is none."""
    with _readable(path, ".mat file", AGAIN):
        content = read_mat(path.read_bytes())
    if not isinstance(values := content.get(variable), np.ndarray):  # text, a sparse matrix or a structure
        what = "the variable is not a list of values" if variable in content else "the variable is not in the file"
        raise FaultError(Fault("bad_label_column", f"{path}: {variable}", f"{what}: {fix}"))
    return values


def mat_names(path: Path, variable: str) -> list[str]:
    """Read a cell array of strings of a .mat file. Raises as `mat_column`."""
    return [cell if isinstance(cell, str) else "" for cell in mat_column(path, variable)]


def numbers(values: Iterable[object]) -> np.ndarray:
    """Convert texts or numbers to (n,) float64; anything else becomes NaN."""
    return pd.to_numeric(pd.Series(list(values), dtype=object), errors="coerce").to_numpy(dtype=np.float64)


def parts_of(names: pd.Series, pattern: str, path: Path, example: str) -> pd.DataFrame:
    """Match each name as a whole with a regular expression, without case; return one column (str) for each group.

    Names that do not match are a bad_label_row fault, with an example of a valid name.
    """
    parts = names.str.extract(f"(?i)^{pattern}$")
    if odd := names[parts[0].isna()].map(repr).tolist():
        raise FaultError(bad_row(path, odd, f"{len(odd)} names are not like {example}: {AGAIN}"))
    return parts


def _grids(path: Path, fix: str) -> list[list[list[object]]]:
    """Rows of cells of each sheet."""
    if path.suffix.lower() != ".xlsx":
        lines = _read_lines(path, fix)
        with _readable(path, "table", fix):
            return [list(csv.reader(lines))]
    if importlib.util.find_spec("openpyxl") is None:
        raise InputError(f"reading {path} needs openpyxl: run `pip install openpyxl`")
    with _readable(path, "spreadsheet", fix):
        sheets = read_sheets(path, None)
    return [sheet.to_numpy(dtype=object).tolist() for sheet in sheets.values()]


def read_sheets(path: Path, sheets: list[int] | None) -> dict[int | str, pd.DataFrame]:
    """Cells of some sheets of an .xlsx file, or of all. ValueError: a stray cell makes a sheet too large for memory."""
    from openpyxl import load_workbook

    with closing(load_workbook(path, read_only=True)) as book:
        for sheet in book.worksheets:
            if (rows := sheet.max_row or 0) * (columns := sheet.max_column or 0) > _MOST_CELLS:
                raise ValueError(f"sheet {sheet.title!r} has {rows} rows and {columns} columns, most of them empty")
    return pd.read_excel(path, sheet_name=sheets, header=None, dtype=object, keep_default_na=False)


def _read_lines(path: Path, fix: str) -> list[str]:
    with _readable(path, "text file", fix):
        lines = read_text(path).splitlines()
    if not any(map(str.strip, lines)):
        raise FaultError(Fault("missing_label_file", str(path), f"it is empty: {fix}"))
    return lines


@contextmanager
def _readable(path: Path, what: str, fix: str) -> Iterator[None]:
    """Turn the errors of a parser, which are of many types for damaged files, into a fault."""
    try:
        yield
    except FaultError:
        raise
    except Exception as error:
        fault = Fault("missing_label_file", str(path), f"not a readable {what} ({first_line(error)}): {fix}")
        raise FaultError(fault) from error


def _missing_column(path: Path, grids: list[list[list[object]]], columns: Sequence[str], fix: str) -> Fault:
    """Fault for a table in which no row has all columns: names those missing from the row that has the most of them."""
    wanted = {name.lower() for name in columns}
    rows = [[cell_text(cell) for cell in row if cell_text(cell)] for grid in grids for row in grid[:_HEADER_ROWS]]
    header = max(rows, key=lambda row: sum(cell.lower() in wanted for cell in row), default=[])
    missing = [name for name in columns if name.lower() not in {cell.lower() for cell in header}]
    seen = f"found only {first_few([repr(cell[:40]) for cell in header], 8)}: " if header else ""
    return Fault("bad_label_column", f"{path}: {', '.join(missing) or columns[0]}", f"{seen}{fix}")


def cell_text(cell: object) -> str:
    """Text of a cell: 1600 and 1600.0 both become "1600", an empty cell becomes ""."""
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
