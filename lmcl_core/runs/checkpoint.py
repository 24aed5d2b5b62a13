"""The checkpoint of an unfinished run: written after every epoch, deleted when the run finishes.

The file begins with a line that holds the SHA-256 of the rest, so that a flipped bit is not resumed.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import IO, Any

import torch

from ..common.errors import InputError
from ..common.files import atomic_write
from .folder import check_same

NAME = "checkpoint.pt"
_HEAD = b"lmcl checkpoint 1 "
#: What a state raises that lacks a part, or whose parts are of another shape.
_WRONG_STATE = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError)
_LENGTH = len(_HEAD) + 64 + 1  # of the first line, with its digest and its end


def save(trainer: Any, folder: Path, identity: dict[str, Any], origin: dict[str, Any]) -> None:
    """Save a `Trainer` after a whole epoch, with `Recipe.identity` and the `provenance` of the start of the run.

    RunError: the checkpoint cannot be saved; the previous one is kept.
    """
    with atomic_write(folder / NAME) as path, open(path, "w+b") as file:  # given a path, torch hides the errno
        file.write(bytes(_LENGTH))
        try:
            torch.save(dict(identity=identity, made_by=origin, **trainer.state()), file)
        except RuntimeError as error:  # torch raises it when it cannot end a file that could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        line = _first_line(file)
        file.seek(0)
        file.write(line)


def load(trainer: Any, folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Load the checkpoint of a run into a new `Trainer`. Returns the `origin` that `save` wrote; None if no checkpoint.

    InputError: the checkpoint is damaged or belongs to another run or version.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    damaged = InputError(f"checkpoint {path} is damaged: delete it, or recompute with --overwrite")
    with open(path, "rb") as file:
        if file.read(_LENGTH) != _first_line(file):
            raise damaged
        file.seek(_LENGTH)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            check_same(state["identity"], identity, folder)
            if not 0 < state["epoch"] <= identity["recipe"]["epochs"]:
                raise ValueError("more epochs than the recipe has")
            trainer.load_state(state)
        except InputError:
            raise
        except _WRONG_STATE as error:
            raise damaged from error
    return state.get("made_by")


def _first_line(file: IO[bytes]) -> bytes:
    """The first line that belongs to the rest of a file."""
    file.seek(_LENGTH)
    return _HEAD + hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"


def delete(folder: Path) -> None:
    """Delete the checkpoint."""
    (folder / NAME).unlink(missing_ok=True)
