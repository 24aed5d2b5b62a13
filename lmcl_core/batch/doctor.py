"""Check this machine for what the notebooks need: packages, processor, memory, disk, weights, cache and data."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from itertools import chain
from pathlib import Path

from ..common.errors import InputError, RunError, counted, first_line
from ..common.paths import cache_folder, project_folder, runs_folder

_REPAIR = "run `rm -f .venv/ready && make environment`"
_MEMORY_GB, _DISK_GB = 4, 1  # the demo's notebooks need about 2 GB and 0.2 GB

#: A level and a line: "ok", "note" (slower or optional) or "fault" (stops ``make reproduce``).
Finding = tuple[str, str]


def doctor(folders: Sequence[str] = (), log: Callable[[str], None] = print) -> None:
    """Log a line per finding about this machine, and the benchmarks found in `folders`. Nothing is changed.

    RunError: there is a fault, so ``make reproduce`` would stop.
    """
    checks = [_python, _packages, _torch, _machine, _disks, _weights, *(partial(_data, folder) for folder in folders)]
    faults = 0
    for level, text in chain.from_iterable(check() for check in checks):
        log(f"{level:<6}{text}")
        faults += level == "fault"
    if faults:
        raise RunError(f"{counted(faults, 'fault')} found: `make reproduce` would stop; fix them as stated above")
    log("no fault found: `make reproduce` can start")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info < (3, 14)
    fix = "" if good else ": install Python 3.11 to 3.13, then run `make environment PYTHON=python3.11`"
    yield "ok" if good else "fault", f"Python {version}{fix}"


def _packages() -> Iterator[Finding]:
    try:
        source = project_folder() / "environment.yml"
        pins = re.findall(r"^ +- ([\w.-]+)(==)([\w.]+)$", source.read_text().partition("# tests")[0], re.M)
    except (InputError, FileNotFoundError):  # installed without a checkout
        source = Path("the package's metadata")
        core = [line for line in metadata.requires("lmcl-iqa") or [] if "extra ==" not in line]
        pins = [re.match(r"([\w.-]+)\W*?([=>]=)([\w.]+)", line).groups() for line in core]
    findings = []
    for name, sign, wanted in pins:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            fix = f"{_REPAIR}, or `pip install '{name}{sign}{wanted}'`"
            findings.append(("fault", f"{name} is not installed: {fix}"))
            continue
        if _numbers(found) != _numbers(wanted) if sign == "==" else _numbers(found) < _numbers(wanted):
            fix = f"`pip install '{name}{sign}{wanted}'`, or expect other rounding"
            findings.append(("note", f"{name} is {found}, {source.name} has {sign}{wanted}: {fix}"))
    yield from findings or [("ok", f"{len(pins)} packages as in {source.name}")]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from ..common.devices import computes_in_bfloat16, resolve_device

        device = resolve_device("auto")
    except Exception as error:  # a broken installation raises many unrelated types
        yield "fault", f"torch cannot be imported ({first_line(error)}): {_REPAIR}"
        return
    name = torch.cuda.get_device_name() if device == "cuda" else device
    text = f"GPU: {name}" if device != "cpu" else "no GPU: the demo needs none, but large benchmarks train slowly"
    yield "note" if device == "cpu" else "ok", text
    slow = "note", "the processor has no bfloat16 instructions: training uses float32 and takes longer"
    yield ("ok", "the processor computes in bfloat16") if computes_in_bfloat16("cpu") else slow


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "ok", f"{platform.machine()} processor, {cores} cores"
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        short = memory < _MEMORY_GB
        fix = f": {_MEMORY_GB} GB are recommended, close other programs" if short else ""
        yield "note" if short else "ok", f"{memory:.0f} GB of memory{fix}"


def _disks() -> Iterator[Finding]:
    cache = cache_folder()
    used = 0.0
    for path in cache.rglob("*"):
        with suppress(FileNotFoundError):  # a training may replace a file meanwhile
            used += path.stat().st_size / 1e9
    yield "ok", f"cache {cache}: {used:.2f} GB; files in its store/ may be deleted at any time"
    places = [("cache", cache, "LMCL_CACHE")]
    try:
        places.append(("runs", runs_folder(), "LMCL_RUNS"))
    except InputError as error:  # no checkout
        yield "fault", str(error)
    for what, folder, variable in places:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        fix = f"set {variable} to a folder on another disk"
        if not os.access(there, os.W_OK):
            yield "fault", f"{what} folder {folder} is not writable: change its permissions, or {fix}"
        elif free < _DISK_GB:
            yield "fault", f"{free:.1f} GB free for {what} at {folder}: free {_DISK_GB} GB, or {fix}"
        else:
            yield "ok", f"{free:.0f} GB free for {what} at {folder}"


def _weights() -> Iterator[Finding]:
    try:
        from ..backbones.weights import PACKAGED, packaged_state

        name = next(iter(PACKAGED))
        packaged_state(name)
    except InputError as error:
        yield "fault", str(error)
    except Exception as error:
        yield "fault", f"pretrained weights were not checked ({first_line(error)}): repair torch first"
    else:
        yield "ok", f"pretrained weights of {name} are complete"
    for path in sorted((cache_folder() / "weights").glob("*.safetensors")):
        yield "ok", f"local weights {path.name}: {path.stat().st_size / 1e6:.0f} MB"


def _data(folder: str) -> Iterator[Finding]:
    from ..data.benchmarks import choose_benchmarks

    try:
        tables, reasons = choose_benchmarks("all", folder)
    except InputError as error:
        yield "note", str(error)
        return
    for name, table in tables.items():
        yield "ok", f"{name}: {len(table)} images in {folder}; `lmcl verify {name} {folder}` checks all"
    for name, reason in reasons.items():
        if not reason.startswith("missing_folder"):
            yield "note", f"{name} in {folder} cannot be used: {reason}"
