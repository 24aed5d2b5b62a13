"""The checkpoint of an unfinished run: written after every epoch, deleted when the run finishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..common.errors import InputError
from ..common.files import atomic_write
from .folder import check_same

NAME = "checkpoint.pt"


def save(trainer: Any, folder: Path, identity: dict[str, Any], origin: dict[str, Any]) -> None:
    """Save a `Trainer` after a whole epoch, with `Recipe.identity` and the `provenance` of the start of the run.

    RunError: the checkpoint cannot be saved; the previous one is kept.
    """
    with atomic_write(folder / NAME) as path, open(path, "wb") as file:  # given a path, torch hides the errno
        torch.save(dict(identity=identity, made_by=origin, **trainer.state()), file)


def load(trainer: Any, folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Load the checkpoint of a run into a new `Trainer`. Returns the `origin` that `save` wrote; None if no checkpoint.

    InputError: the checkpoint is damaged or belongs to another run.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    damaged = InputError(f"checkpoint {path} is damaged: delete it, or recompute with --overwrite")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for damaged files
        raise damaged from error
    if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
        raise InputError(f"checkpoint {path} was not written by lmcl_core: move it away, or recompute with --overwrite")
    check_same(state["identity"], identity, folder)
    try:
        trainer.load_state(state)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:  # a part is missing or differs
        raise damaged from error
    return state.get("made_by")


def delete(folder: Path) -> None:
    """Delete the checkpoint, and temporary files left by killed processes."""
    for path in (folder / NAME, *folder.glob(f".{NAME}-*")):
        path.unlink(missing_ok=True)
