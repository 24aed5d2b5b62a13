"""Read the label file of own data as text, with the line or row number of every label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from ..common.errors import InputError, first_line
from .faults import Fault, FaultError, first_few
from .labels import EXCEL, cell_text, check_decimals, check_separator, read_sheets, read_text

Cells = list[tuple[int, list[str]]]  # number of the line or row in the file, and its cells


def read_rows(path: Path, columns: Mapping[str, str], needed: set[str]) -> pd.DataFrame:
    """Read columns of a .csv, .xlsx (first sheet) or .parquet file; the first row that is not blank is the header.

    `columns` are names in the file, compared without case, by their names in the result; `needed` are those keys of
    `columns` that the file must have. Returns one row (str cells, stripped) per row that is not blank; the index is the
    line or row in the file, and ``.attrs["unit"]`` is "line" or "row".
    """
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise InputError(f"labels are in {path}: save them as {', '.join(_READERS)}, and correct benchmark.toml")
    cells = [(number, row) for number, row in _read(path, kind, [columns[key] for key in needed]) if any(row)]
    if len(cells) < 2:
        what = "no row below the header" if cells else "it is empty"
        raise FaultError(Fault("missing_label_file", str(path), f"{what}: write one row for each image"))
    header, unit = cells[0][1], "line" if kind == ".csv" else "row"
    positions = _positions(path, header, columns, needed)
    faults = []
    for number, row in cells[1:]:
        row += [""] * (len(header) - len(row)) if kind != ".csv" else []
        if len(row) < len(header) or any(row[len(header) :]):
            counts = f"it has {len(row)} cells, the header has {len(header)}"
            fix = f"{counts}: correct the row; quote cells with commas, and write decimal points"
            faults.append(Fault("bad_label_row", f"{path}: {unit} {number}", fix))
    if len(faults) == len(cells) - 1 > 1:
        problem = f"here and in every row are not the {len(header)} cells of the header, perhaps by decimal commas"
        raise FaultError(Fault("bad_label_row", faults[0].where, f"{problem}: {EXCEL}"))
    if faults:
        raise FaultError(*faults)
    values = [[row[position] for position in positions.values()] for _, row in cells[1:]]
    rows = pd.DataFrame(values, [number for number, _ in cells[1:]], list(positions), dtype=str)
    if bare := [columns[key] for key in rows if key in needed and not rows[key].any()]:
        fix = "fill it; if it holds formulas, save the file once in a spreadsheet program, which computes them"
        raise FaultError(Fault("bad_label_column", f"{path}: {', '.join(bare)}", f"every cell is empty: {fix}"))
    check_decimals(path, rows[rows.columns.intersection(["mos", "level"])])
    rows.attrs = dict(unit=unit)
    return rows


def _read(path: Path, kind: str, needed: Iterable[str]) -> Cells:
    if not path.is_file():
        raise FaultError(Fault("missing_label_file", str(path), "put it there, or correct labels in benchmark.toml"))
    try:
        if kind == ".csv":
            check_separator(path, read_text(path).splitlines()[:5], needed)
        return _READERS[kind](path)
    except FaultError:
        raise
    except ImportError as error:
        package = "openpyxl" if kind == ".xlsx" else "pyarrow"
        raise InputError(f"reading {path} needs {package}: run `pip install {package}`") from error
    except Exception as error:  # parsers raise errors of many types for damaged files
        problem = f"not a readable {kind} file ({first_line(error)})"
        fix = f"{problem}: save it again{', in UTF-8' if kind == '.csv' else ''}"
        raise FaultError(Fault("missing_label_file", str(path), fix)) from error


def _read_csv(path: Path) -> Cells:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    return [(reader.line_num, [cell.strip() for cell in row]) for row in reader]


def _read_excel(path: Path) -> Cells:
    sheet = read_sheets(path, [0])[0]
    return [(n, list(map(cell_text, row))) for n, row in enumerate(sheet.to_numpy(dtype=object).tolist(), 1)]


def _read_parquet(path: Path) -> Cells:
    table = pd.read_parquet(path)
    rows = zip(*(table[column].astype(object) for column in table)) if len(table) else ()
    return [(0, list(map(str, table))), *((n, list(map(cell_text, row))) for n, row in enumerate(rows, 1))]


_READERS = {".csv": _read_csv, ".xlsx": _read_excel, ".parquet": _read_parquet}


def _positions(path: Path, header: list[str], columns: Mapping[str, str], needed: set[str]) -> dict[str, int]:
    """Position of each column of the result in the file."""
    found = [cell.lower() for cell in header]
    used = {key: name for key, name in columns.items() if key in needed or name.lower() in found}
    counts = {name: found.count(name.lower()) for name in used.values()}
    if missing := [name for name, count in counts.items() if count == 0]:
        seen = first_few([repr(cell[:40]) for cell in header], 8)
        fix = "add it, or name the right column in [columns] of benchmark.toml"
        fix = "separate the cells by commas" if len(header) == 1 and path.suffix.lower() == ".csv" else fix
        raise FaultError(Fault("bad_label_column", f"{path}: {', '.join(missing)}", f"found only {seen}: {fix}"))
    if double := [name for name, count in counts.items() if count > 1]:
        where, fix = f"{path}: {', '.join(double)}", "the column is there more than once: keep one"
        raise FaultError(Fault("bad_label_column", where, fix))
    return {key: found.index(name.lower()) for key, name in used.items()}
