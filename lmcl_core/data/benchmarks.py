"""Load a benchmark's labels and image paths as one table, wherever its official folder lies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import InputError, unknown
from ..common.paths import resolve_path
from . import demo
from .catalogue import BENCHMARKS, Benchmark
from .faults import Fault, FaultError, bad_scores, first_few
from .labels import find
from .own import FILE, HELP, own_benchmark, own_folder, read_own, read_toml
from .readers import Reader, Reading, images_beside
from .readers_authentic import read_koniq10k, read_livec, read_livefb, read_spaq
from .readers_synthetic import read_csiq, read_demo, read_kadid10k, read_live, read_tid2013

_SYNTHETIC = dict(live=read_live, csiq=read_csiq, tid2013=read_tid2013, kadid10k=read_kadid10k)
_AUTHENTIC = dict(livec=read_livec, koniq10k=read_koniq10k, livefb=read_livefb, spaq=read_spaq)
#: The function that reads a benchmark's official folder, by name.
READERS: dict[str, Reader] = {**_SYNTHETIC, **_AUTHENTIC, "demo": read_demo}

COLUMNS = ["image", "mos", "content", "distortion", "level", "official_split"]
ALL = "all"

_GENERIC = {"database"}  # names of official folders that are too general to identify one
_DEPTH, _MOST_FOLDERS = 2, 3000  # search for the official folder: levels below the root, folders


def load_benchmark(name: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Read a benchmark's labels and find its images. Pixels are not read.

    Args:
        name: a key of `BENCHMARKS`; or the path of a folder with a ``benchmark.toml``, or the name in that file.
        root: the benchmark's folder, its parent, or a folder of many benchmarks. It is not used for a path, and not
            needed for "demo", which is then built in the cache folder.

    Returns:
        One row per image, sorted by image: image (str, path relative to `root`, or to the path given as `name`), mos
        (float64, higher is better), content (str, must not be shared by train and test), distortion (str or NA), level
        (Int64 or NA), official_split ("train", "val", "test" or NA). ``.attrs`` holds benchmark (its name), root,
        mos_range, label_kind, label_file, notes (list of sentences about this copy) and about (the `Benchmark`).

    Raises:
        InputError: unknown name, or a folder that cannot be read; the message says how to fix it.
    """
    benchmark, root, folder = locate(name, root)
    reading = read(benchmark, folder)
    table = reading.table
    if (bad := ~np.isfinite(table["mos"])).any():
        raise FaultError(bad_scores(reading.label_file, table["image"][bad].tolist()))
    if missing := sorted(set(table["image"]) - images_beside(folder, table["image"])):
        where = first_few([str(folder / image) for image in missing])
        fix = f"{len(missing)} of {len(table)} listed images are missing: {benchmark.fix}"
        raise FaultError(Fault("missing_image", where, fix))
    if folder != root:
        table["image"] = f"{folder.relative_to(root).as_posix()}/" + table["image"]
    table = table[COLUMNS].sort_values("image", ignore_index=True)
    table["official_split"] = table["official_split"].astype(object).where(table["official_split"].notna(), pd.NA)
    facts = dict(mos_range=benchmark.mos_range, label_kind=benchmark.label_kind, label_file=str(reading.label_file))
    table.attrs = dict(benchmark=benchmark.name, root=str(root), **facts, notes=list(reading.notes), about=benchmark)
    return table


def benchmark(source: str | Path | pd.DataFrame, root: str | Path | None = None) -> Benchmark:
    """Facts about a benchmark, given as a table of `load_benchmark`, or as a name or path and a root as there.

    The root is not needed for a key of `BENCHMARKS`. InputError: unknown name, or an unusable ``benchmark.toml``.
    """
    if isinstance(source, pd.DataFrame):
        return BENCHMARKS.get(source.attrs["benchmark"]) or source.attrs["about"]
    return BENCHMARKS.get(str(source)) or locate(source, root)[0]


def name_of(text: str) -> str:
    """The name of a benchmark from its name or path; it is also that of its folders of runs and figures."""
    folder = None if text in BENCHMARKS else own_folder(text)
    return text if folder is None else read_toml(folder)["name"]


def read(benchmark: Benchmark, folder: Path) -> Reading:
    """Read the labels in a benchmark's folder, which `locate` found."""
    return READERS.get(benchmark.name, read_own)(folder)


def locate(name: str | Path, root: str | Path | None) -> tuple[Benchmark, Path, Path]:
    """Benchmark, absolute root and the benchmark's folder, from a name and a root as in `load_benchmark`."""
    if not isinstance(name, (str, Path)):
        raise unknown("benchmark", name, BENCHMARKS)
    if name not in BENCHMARKS:
        return _locate_own(str(name), root)
    if root is None and name != "demo":
        places = f"`lmcl verify {name} DIR`, --data-root DIR of other commands, data_root of a notebook"
        raise InputError(f"benchmark {name!r} needs the folder of its images: name it ({places}, or root in Python)")
    root = resolve_path(demo.build_demo() if root is None else root)
    return BENCHMARKS[name], root, _find_folder(BENCHMARKS[name], root)


def _locate_own(name: str, root: str | Path | None) -> tuple[Benchmark, Path, Path]:
    """`locate` for own data, by its path or by its name in a ``benchmark.toml`` at or below the root."""
    if (folder := own_folder(name)) is not None:
        return own_benchmark(folder), folder, folder
    root = None if root is None else resolve_path(root)
    found, broken = _own_below(root) if root else ({}, {})
    if name in found:
        if len(found[name]) > 1:
            listed = first_few([str(folder) for folder in found[name]])
            raise InputError(f"{len(found[name])} folders are named {name!r} in their {FILE}: {listed}: give one path")
        return own_benchmark(found[name][0]), root, found[name][0]
    if broken:
        raise next(iter(broken.values()))
    if os.sep in name or os.path.isdir(name):
        problem = f"{name} holds no {FILE}" if os.path.isdir(name) else f"there is no folder {name}"
        raise InputError(f"{problem}: name a folder with a {FILE} ({HELP}), or a benchmark: {', '.join(BENCHMARKS)}")
    raise InputError(f"{unknown('benchmark', name, [*BENCHMARKS, *found])} (own data: the folder of its {FILE})")


def _own_below(root: Path) -> tuple[dict[str, list[Path]], dict[str, InputError]]:
    """Folders with a ``benchmark.toml`` at or below a root by name; and errors of such files by folder."""
    found, broken = {}, {}
    for folder, names in _list_folders(root).items():
        if FILE in names:
            try:
                found.setdefault(read_toml(folder)["name"], []).append(folder)
            except InputError as error:
                broken[str(folder)] = error
    return dict(sorted(found.items())), broken


def _find_folder(benchmark: Benchmark, root: Path) -> Path:
    """Official folder at or below a root, identified by its contents or else by its name, both without case."""
    places = _list_folders(root)
    marked = {one.name: [path for path in places if _has_marks(one, path, places[path])] for one in BENCHMARKS.values()}
    own = marked.pop(benchmark.name)
    found = _nearest(benchmark, own) if own else _by_name(benchmark, places, sum(marked.values(), []))
    if found is not None:
        return found
    seen = {other: paths[0].name for other, paths in marked.items() if paths}
    others = [f"{place}/ is {BENCHMARKS[other].title} (benchmark {other!r})" for other, place in seen.items()]
    fix = f"name the {benchmark.title} folder {benchmark.folder}/ or its parent"
    above = [path for path in root.parents[:2] if _has_marks(benchmark, path, _entries(path)[0])]
    if above:
        fix = f"it is a part of {above[0]}: name that folder"
    elif others:
        fix = f"{first_few(others, 8)}, not {benchmark.title}; {fix}"
    elif not root.is_dir():
        fix = f"{'this is a file' if root.exists() else 'there is no such folder'}; {fix}"
    raise FaultError(Fault("missing_folder", str(root), fix))


def _list_folders(root: Path) -> dict[Path, frozenset[str]]:
    """A root and the folders below it, breadth first, with the names in each in lower case."""
    found: dict[Path, frozenset[str]] = {}
    level = [root] if root.is_dir() else []
    for _ in range(_DEPTH + 1):
        inner = []
        for folder in level[: max(0, _MOST_FOLDERS - len(found))]:
            found[folder], folders = _entries(folder)
            inner += [folder / name for name in folders if name[0] != "." and name != "__MACOSX"]
        level = inner
    return found


def _entries(folder: Path) -> tuple[frozenset[str], list[str]]:
    """Lower-case names of all that a folder holds, and sorted names of the folders in it."""
    _, folders, files = next(os.walk(folder), ("", [], []))
    return frozenset(name.lower() for name in folders + files), sorted(folders)


def _has_marks(benchmark: Benchmark, folder: Path, names: frozenset[str]) -> bool:
    def holds(mark: str) -> bool:
        return mark.split("/")[0].lower() in names and ("/" not in mark or find(folder, mark) is not None)

    if benchmark.name == "demo" and FILE in names:  # own data may hold files of the same names
        return False
    return all(any(map(holds, marks.split("|"))) for marks in benchmark.marks)


def _nearest(benchmark: Benchmark, marked: list[Path]) -> Path:
    """The folder nearest to the root; among equally near ones, the one with an official name."""
    depth = min(len(path.parts) for path in marked)
    nearest = [path for path in marked if len(path.parts) == depth]
    names = [name.lower() for name in benchmark.folders]
    best = [path for path in nearest if path.name.lower() in names] or nearest
    if len(best) > 1:
        copies = first_few([str(path) for path in best])
        raise InputError(f"found {len(best)} copies of {benchmark.title}: {copies}: name the one to use")
    return best[0]


def _by_name(benchmark: Benchmark, places: dict[Path, frozenset[str]], taken: list[Path]) -> Path | None:
    """The folder with an official name that holds no other benchmark."""
    names = [name.lower() for name in benchmark.folders]
    named = [path for path in places if path.name.lower() in names and path.name.lower() not in _GENERIC]
    free = [path for path in named if not any(other.is_relative_to(path) for other in taken)]
    return min(free, key=lambda path: names.index(path.name.lower()), default=None)


def choose_benchmarks(names: str, root: str | Path | None = None) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Load one benchmark or several. InputError: a named benchmark, or all of them, cannot be read.

    `names` is one name or path, several separated by commas, or "all": every benchmark except the demo, and every
    folder with a ``benchmark.toml`` at or below `root`, which all share. The demo beside others is built in the cache.
    Returns tables by name, in the order of `names`; and, for "all", the reasons why benchmarks were left out, by name
    (by folder, if the name cannot be read).
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted or len(set(wanted)) < len(wanted) or (ALL in wanted and len(wanted) > 1):
        raise InputError(f"benchmark is {names!r}: write one name, several different names with commas, or {ALL}")
    if wanted != [ALL]:
        is_alone = len(wanted) == 1
        loaded = [load_benchmark(name, root if name != "demo" or is_alone else None) for name in wanted]
        tables = {table.attrs["benchmark"]: table for table in loaded}
        if len(tables) < len(loaded):
            raise InputError(f"benchmark is {names!r}: two of these are called the same; name each only once")
        return tables, {}
    if root is None:
        fix = "pass root (data_root in a notebook, --data-root DIR on the command line)"
        raise InputError(f"benchmark {ALL} needs the folder of all benchmarks: {fix}")
    if not (folder := resolve_path(root)).is_dir():
        raise InputError(f"{folder} is not an existing folder: name the folder that holds all benchmarks")
    own, broken = _own_below(folder)
    tables, reasons = {}, {place: str(error) for place, error in broken.items()}
    for name in [*(name for name in BENCHMARKS if name != "demo"), *own]:
        try:
            tables[name] = load_benchmark(own[name][0] if len(own.get(name, ())) == 1 else name, root)
        except InputError as error:
            reasons[name] = str(error)
    if not tables:
        raise InputError(f"no benchmark can be read in {root}: name the folder that holds their official folders")
    return tables, reasons
