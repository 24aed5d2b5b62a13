"""Kill the demo's training, its store and its reproduction at random moments, fill the disk, and check what resumes.

``python -m tests.kill [N]`` (default 20) kills training and the building of the store N times, `lmcl reproduce` N // 10
times (at least once), and trains N times on a full disk. After every five kills and each full disk the work is resumed:
its results must be those of an uninterrupted run, bit for bit, and no temporary file may stay. It prints a table of
counts; the exit code is 1 if a result differs, a file stays, or an error is not the expected one.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import psutil

from lmcl_core import Recipe, RunError, load_benchmark, make_split, train
from lmcl_core.common import files
from lmcl_core.data.store import ImageStore

SMALL = dict(backbone="test_efficientnet", pretrained=False, crop_size=32, view_size=32, epochs=2, train_share=0.2)
SMALL |= dict(test_crops=2, precision="32-true")
RESULTS = ("model.safetensors", "predictions.csv", "*.u8", "03_results.csv")
MOST_SECONDS = 1200  # of one `lmcl reproduce`
AT_ONCE = 5  # kills before the work is resumed


def results(folder: Path) -> dict[Path, bytes]:
    """The content of the result files of a folder that do not depend on time."""
    found = [path for name in RESULTS for path in sorted(folder.rglob(name))]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def litter(folder: Path) -> list[str]:
    """Files that a finished run does not leave."""
    unwanted = re.compile(r"\..+-[0-9a-f]{32}|\.lock|checkpoint\.pt")
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if unwanted.fullmatch(path.name)]


class Fork:
    """Work of this process in a forked copy, which need not import anything."""

    def __init__(self, work: Callable[[Path], None], folder: Path) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work(folder)
                os._exit(0)
            except RunError as error:
                os._exit(75 if "disk full" in str(error) else 1)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        os.kill(self.pid, 9)

    def wait(self) -> int:
        """Its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Command:
    """`lmcl reproduce` of one epoch, with all its processes, which inherit a mark."""

    def __init__(self, folder: Path) -> None:
        options = [f"--set={key}={str(value).lower()}" for key, value in (SMALL | dict(epochs=1)).items()]
        command = [sys.executable, "-m", "lmcl_core", "reproduce", "--splits=1", f"--runs-dir={folder}", *options]
        self.mark = f"{folder}-{time.monotonic_ns()}"
        environment = {**os.environ, "LMCL_KILL_MARK": self.mark}
        self.process = psutil.Popen(command, stdout=subprocess.DEVNULL, env=environment)

    def kill(self) -> None:
        """Kill the command, its workers and their kernels, also those that start meanwhile or lost their parent."""
        while marked := [process for process in psutil.process_iter() if self._is_marked(process)]:
            for process in marked:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(marked, timeout=5)

    def _is_marked(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.environ().get("LMCL_KILL_MARK") == self.mark
        return False

    def wait(self) -> int:
        """Its exit code; after `MOST_SECONDS` it is killed."""
        try:
            return self.process.wait(MOST_SECONDS)
        except psutil.TimeoutExpired:
            print(f"{self.mark} did not end in {MOST_SECONDS} s", flush=True)
            self.kill()
            return self.process.wait()


def train_demo(folder: Path) -> None:
    """The training that is killed."""
    table, recipe = load_benchmark("demo"), Recipe.for_benchmark("demo", **SMALL, name="kill")
    train(table, make_split(table, 0), recipe, folder, "cpu", log=lambda line: None)


def build_store(folder: Path) -> None:
    """The building of a store that is killed."""
    ImageStore.open(load_benchmark("demo"), None, folder)


def check(begin: Callable, folder: Path, expected: dict, counts: Counter) -> None:
    """Resume the work, and compare it with that of an uninterrupted run."""
    failed = begin(folder).wait()
    counts["resumed"] += 1
    counts["failed"] += bool(failed)
    counts["different"] += not failed and results(folder) != expected
    counts["litter"] += bool(found := litter(folder))
    if found:
        print(f"left in {folder.name}: {', '.join(found)}", flush=True)


def kill(begin: Callable, kills: int, folder: Path, chance: random.Random) -> Counter:
    """Begin work, kill it at random moments, resume it."""
    start = time.perf_counter()
    assert begin(folder / "whole").wait() == 0, "the work fails without any kill"
    seconds, counts, expected = time.perf_counter() - start, Counter(), results(folder / "whole")
    for n in range(1, kills + 1):
        work = begin(place := folder / f"killed-{counts['resumed']}")
        time.sleep(chance.uniform(0, seconds))
        work.kill()
        ended = work.wait() == 0
        counts += Counter({"kills": 1, "killed at work": not ended})
        if ended or n % AT_ONCE == 0 or n == kills:
            check(begin, place, expected, counts)
    return counts


def fill(begin: Callable, tries: int, folder: Path, chance: random.Random) -> Counter:
    """Train where one write finds no space left, and once more with enough space."""
    assert begin(folder / "whole").wait() == 0
    expected, counts = results(folder / "whole"), Counter()
    for n in range(tries):
        (place := folder / f"full-{n}").mkdir()
        code = Fork(lambda place: no_space(place, chance), place).wait()
        counts["disk full"] += code == 75
        counts["failed"] += code not in (0, 75)
        check(begin, place, expected, counts)
    return counts


def no_space(folder: Path, chance: random.Random) -> None:
    """Train where one write, at random, finds no space left."""
    fails = iter([n == 0 for n in range(chance.randrange(6), -100, -1)])

    def fsync(file: int) -> None:
        if next(fails):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with patch.object(files.os, "fsync", fsync):
        train_demo(folder)


def main() -> None:
    """Print the counts of every phase, and exit with 1 if one of them is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=20, help="kills of training and of the store")
    kills, seed = parser.parse_args().kills, random.randrange(10**6)
    print(f"random moments from seed {seed}", flush=True)
    chance = random.Random(seed)
    training, store = lambda folder: Fork(train_demo, folder), lambda folder: Fork(build_store, folder)
    with tempfile.TemporaryDirectory() as name:
        Fork(train_demo, Path(name) / "first").wait()  # builds the demo and its store
        phases = [
            ("training", lambda place: kill(training, kills, place, chance)),
            ("store", lambda place: kill(store, kills, place, chance)),
            ("full disk", lambda place: fill(training, kills, place, chance)),
            ("reproduce", lambda place: kill(Command, max(1, kills // 10), place, chance)),
        ]
        rows = {}
        for phase, work in phases:
            (place := Path(name) / phase.replace(" ", "-")).mkdir()
            start = time.perf_counter()
            rows[phase] = dict(work(place), seconds=round(time.perf_counter() - start))
            print(f"{phase}: {rows[phase]}", flush=True)
    columns = ["kills", "killed at work", "disk full", "resumed", "different", "litter", "failed", "seconds"]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).fillna(0).astype(int)
    print(table.to_string())
    sys.exit(int(table[["different", "litter", "failed"]].to_numpy().any()))


if __name__ == "__main__":
    main()
