"""A checkpoint resumes its own run, and no other one."""

from __future__ import annotations

import errno
import io

import pytest
import torch

from lmcl_core import InputError, RunError
from lmcl_core.runs import checkpoint

IDENTITY = dict(benchmark="livec", recipe_hash="r", data_hash="d", split_hash="s", recipe=dict(epochs=5))


class Counter:
    """A trainer whose state is one tensor."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = torch.tensor(epoch)

    def state(self):
        return dict(epoch=self.epoch)

    def load_state(self, state):
        self.epoch = state["epoch"]


@pytest.fixture
def saved(tmp_path):
    """A run folder with the checkpoint of epoch 3."""
    checkpoint.save(Counter(3), tmp_path, IDENTITY, dict(commit="c"))
    return tmp_path


class Full(io.BytesIO):
    """A file of which only the beginning can be written."""

    def write(self, data):
        if self.tell() > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_told_although_torch_hides_it_and_keeps_the_checkpoint_of_the_epoch_before(saved, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(checkpoint, "open", lambda *arguments: Full(), raising=False)
        with pytest.raises(RunError, match="disk full while saving .*checkpoint.pt: free some space"):
            checkpoint.save(Counter(4), saved, IDENTITY, {})
    trainer = Counter()
    checkpoint.load(trainer, saved, IDENTITY)
    assert trainer.epoch == 3 and [path.name for path in saved.iterdir()] == [checkpoint.NAME]


def test_a_checkpoint_restores_the_state_and_the_provenance(saved, tmp_path):
    trainer = Counter()
    assert checkpoint.load(trainer, saved, IDENTITY) == dict(commit="c") and trainer.epoch == 3
    assert checkpoint.load(Counter(), tmp_path / "empty", IDENTITY) is None


def test_the_checkpoint_of_another_run_is_refused(saved):
    with pytest.raises(InputError, match="holds another run .different: data_hash"):
        checkpoint.load(Counter(), saved, {**IDENTITY, "data_hash": "other"})


def test_a_damaged_checkpoint_is_named(saved):
    path = saved / checkpoint.NAME
    whole = path.read_bytes()
    flipped = whole[:-300] + bytes([whole[-300] ^ 1]) + whole[-299:]
    for content in (b"half a file", b"", whole[:-1], flipped):
        path.write_bytes(content)
        with pytest.raises(InputError, match="checkpoint.pt is damaged: delete it"):
            checkpoint.load(Counter(), saved, IDENTITY)


@pytest.mark.parametrize("state", [dict(), dict(epoch=6), dict(epoch=0), dict(epoch="3")])
def test_a_state_without_epochs_or_with_more_than_the_recipe_has_is_damaged(tmp_path, monkeypatch, state):
    monkeypatch.setattr(Counter, "state", lambda self: state)
    checkpoint.save(Counter(), tmp_path, IDENTITY, {})
    with pytest.raises(InputError, match="checkpoint.pt is damaged: delete it"):
        checkpoint.load(Counter(), tmp_path, IDENTITY)
