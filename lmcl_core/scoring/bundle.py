"""Pack a finished run into the weights that ship with the package: ``python -m lmcl_core.scoring.bundle RUN NAME``.

A model card, ``bundled/NAME.md``, is written by hand beside them; it states the SHA-256 that the command prints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ..common.command import Parser
from ..common.errors import InputError
from ..runs.folder import read_run
from ..runs.model_file import BUNDLED_FOLDER, pack


def bundle(run: str | Path, name: str, folder: str | Path = BUNDLED_FOLDER) -> Path:
    """Pack a finished run as ``NAME.safetensors``: float16, without the embedding head. Returns the path of the file.

    InputError: `run` holds no finished run, weights of that name exist, or `name` has other characters than lower-case
    letters, digits, ``_`` and ``-``. RunError: the file cannot be saved.
    """
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise InputError(f"name is {name!r}: use lower-case letters, digits, _ and -")
    if not str(run).strip():
        raise InputError("run is empty: name the folder of a finished run")
    if read_run(run) is None:
        raise InputError(f"{run} holds no finished run: name the folder of a run that has a run.json")
    path = Path(folder) / f"{name}.safetensors"
    if path.exists():
        raise InputError(f"{path} exists, and its model card describes it: choose another name, or move both first")
    pack(run, path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``python -m lmcl_core.scoring.bundle``; exits with 0 (success), 1 (failure) or 2 (invalid input)."""
    parser = Parser("lmcl_core.scoring.bundle", "Pack a finished run into weights of the package.")
    parser.add_argument("run", help="run folder")
    parser.add_argument("name", help="name of the weights")
    with parser.run(arguments) as given:
        content = (path := bundle(given.run, given.name)).read_bytes()
        print(f"{path}: {len(content) / 1e6:.1f} MB, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
