"""Label files: found without regard to case, read from .csv, .xlsx, .txt and .mat; every failure is a fault."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError
from .faults import AGAIN, Fault, FaultError, some

#: The header of a spreadsheet stands in one of its first rows.
_HEADER_ROWS = 30


def listing(folder: Path) -> dict[str, str]:
    """Names in a folder by their lower-case spelling; empty where there is no such folder.

    Args:
        folder: where to look, not below it.
    """
    try:
        return {path.name.lower(): path.name for path in sorted(folder.iterdir(), reverse=True)}
    except OSError:
        return {}


def find(folder: Path, name: str) -> Path | None:
    """A file or folder by its relative name, each part matched without case.

    Args:
        folder: where the name begins.
        name: parts joined by "/".

    Returns:
        The path as it is spelled on the disk, or None.
    """
    if (folder / name).exists():
        return folder / name
    for part in name.split("/"):
        spelled = listing(folder).get(part.lower())
        if spelled is None:
            return None
        folder = folder / spelled
    return folder


def label_file(folder: Path, *names: str, fix: str = "unpack the archive again, with its label files") -> Path:
    """The first label file that is there.

    Args:
        folder: the official folder.
        names: accepted names relative to it, the preferred one first.
        fix: what to do where there is none.

    Raises:
        FaultError: missing_label_file, with the preferred name.
    """
    for name in names:
        path = find(folder, name)
        if path is not None and path.is_file():
            return path
    raise FaultError(Fault("missing_label_file", str(folder / names[0]), fix))


def read_columns(path: Path, columns: Sequence[str], fix: str = AGAIN) -> pd.DataFrame:
    """Read some columns of a table, wherever its header stands.

    Args:
        path: a .csv file, or an .xlsx file in which the header may stand in any early row of any sheet. Where several
            sheets have the columns, the one with the most rows is read.
        columns: names to find, compared without case and outer blanks.
        fix: what to do about a fault.

    Returns:
        The columns under the names asked for, as stripped text (str); a number that is whole has no decimals. Rows
        that are blank in all of them are left out.

    Raises:
        FaultError: missing_label_file for a file that is no table, bad_label_column for a column that is not there.
        InputError: .xlsx cannot be read here.
    """
    grids = _sheets(path, fix) if path.suffix.lower() == ".xlsx" else [_csv_rows(path, fix)]
    best, header = [], []
    for grid in grids:
        for place, row in enumerate(grid[:_HEADER_ROWS]):
            heads = [_text(cell).lower() for cell in row]
            if all(name.lower() in heads for name in columns) and len(grid) - place > len(best):
                best, header = grid[place + 1 :] or [[]], heads
    if not header:
        raise FaultError(_no_column(path, grids, columns, fix))
    at = [header.index(name.lower()) for name in columns]
    cells = [[_text(row[i]) if i < len(row) else "" for i in at] for row in best]
    return pd.DataFrame([row for row in cells if any(row)], columns=list(columns), dtype=str)


def read_words(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a text file of words in columns, without a header.

    Args:
        path: the file.
        columns: what each line holds, in order.

    Returns:
        The columns as text (str); blank lines are left out.

    Raises:
        FaultError: missing_label_file for an unreadable or empty file, bad_label_column where no line has that many
            words, bad_label_row where some have not.
    """
    lines = [(n, line.split()) for n, line in enumerate(_read_text(path, AGAIN).splitlines(), 1) if line.strip()]
    odd = [f"line {n}" for n, words in lines if len(words) != len(columns)]
    wanted = f"each line must hold {' and '.join(columns)}"
    if lines and len(odd) == len(lines):
        seen = len(lines[0][1])
        missing = columns[seen] if seen < len(columns) else f"column {len(columns) + 1}"
        raise FaultError(Fault("bad_label_column", f"{path}: {missing}", f"{wanted}: {AGAIN}"))
    if odd:
        raise FaultError(Fault("bad_label_row", f"{path}: {some(odd)}", f"{wanted}: {AGAIN}"))
    if not lines:
        raise FaultError(Fault("missing_label_file", str(path), f"it is empty: {AGAIN}"))
    return pd.DataFrame([words for _, words in lines], columns=list(columns), dtype=str)


def mat_column(path: Path, variable: str, fix: str = "fetch it again") -> np.ndarray:
    """Read a variable of a .mat file.

    Args:
        path: the file.
        variable: its name.
        fix: what to do where the variable is not there.

    Returns:
        (n,) of the variable's own dtype.

    Raises:
        FaultError: missing_label_file for a file that is not of this format, bad_label_column without the variable.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # loadmat raises a different kind for each way a file can be damaged
        raise FaultError(_unreadable(path, "not a readable .mat file", error, "fetch it again")) from error
    if variable not in content:
        raise FaultError(Fault("bad_label_column", f"{path}: {variable}", f"the variable is not in the file: {fix}"))
    values = content[variable]
    if not isinstance(values, np.ndarray) or values.dtype.names:  # a sparse matrix, or a structure
        raise FaultError(Fault("bad_label_column", f"{path}: {variable}", f"the variable is no list of values: {fix}"))
    return values.ravel()


def mat_names(path: Path, variable: str) -> list[str]:
    """Read a cell array of texts of a .mat file.

    Args:
        path: the file.
        variable: its name.

    Raises:
        FaultError: as `mat_column`.
    """
    return [str(np.asarray(cell).ravel()[0]) if np.size(cell) else "" for cell in mat_column(path, variable)]


def numbers(values: Iterable[object]) -> np.ndarray:
    """Scores as (n,) float64; what is no number becomes NaN.

    Args:
        values: texts or numbers.
    """
    return pd.to_numeric(pd.Series(list(values), dtype=object), errors="coerce").to_numpy(dtype=np.float64)


def parts_of(names: Iterable[str], pattern: str, path: Path, example: str) -> pd.DataFrame:
    """Take file names apart.

    Args:
        names: of a label file.
        pattern: regular expression with a group for each part, matched without case on the whole name.
        path: the label file, for the error.
        example: a name as it should be.

    Returns:
        One column (str) for each group.

    Raises:
        FaultError: bad_label_row, with the names that do not fit.
    """
    names = pd.Series(list(names), dtype=str)
    parts = names.str.extract(f"(?i)^{pattern}$")
    odd = names[parts[0].isna()].tolist()
    if odd:
        fix = f"{len(odd)} names are not like {example}: {AGAIN}"
        raise FaultError(Fault("bad_label_row", f"{path}: {some([repr(name) for name in odd])}", fix))
    return parts


def _sheets(path: Path, fix: str) -> list[list[list[object]]]:
    try:
        import openpyxl  # noqa: F401  (pandas reads .xlsx with it)
    except ImportError as error:
        raise InputError(f"reading {path} needs openpyxl: run `pip install openpyxl`") from error
    try:
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, keep_default_na=False)
    except Exception as error:  # a different kind for each way a spreadsheet can be damaged
        raise FaultError(_unreadable(path, "not a readable spreadsheet", error, fix)) from error
    return [sheet.to_numpy(dtype=object).tolist() for sheet in sheets.values()]


def _csv_rows(path: Path, fix: str) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(_read_text(path, fix).splitlines()) if row]
    except csv.Error as error:
        raise FaultError(_unreadable(path, "not a table", error, fix)) from error
    if not rows:
        raise FaultError(Fault("missing_label_file", str(path), f"it is empty: {fix}"))
    return rows


def _read_text(path: Path, fix: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FaultError(_unreadable(path, "not a readable text file", error, fix)) from error


def _unreadable(path: Path, what: str, error: Exception, fix: str) -> Fault:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Fault("missing_label_file", str(path), f"{what} ({reason}): {fix}")


def _no_column(path: Path, grids: list[list[list[object]]], columns: Sequence[str], fix: str) -> Fault:
    """The fault of a table without a header: which column is missing in the row most like one."""
    rows = [[_text(cell) for cell in row] for grid in grids for row in grid[:_HEADER_ROWS]]
    wanted = [name.lower() for name in columns]
    nearest = max(rows, key=lambda row: sum(cell.lower() in wanted for cell in row), default=[])
    heads = [cell for cell in nearest if cell]
    missing = [name for name in columns if name.lower() not in {cell.lower() for cell in heads}]
    seen = f"found only {some([repr(cell[:40]) for cell in heads], 8)}: " if heads else ""
    return Fault("bad_label_column", f"{path}: {', '.join(missing) or columns[0]}", f"{seen}{fix}")


def _text(cell: object) -> str:
    """A cell as text: 1600 and 1600.0 are both "1600", an empty one is ""."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
