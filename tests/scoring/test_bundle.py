"""Bundled weights: a packed run with a hand-written card."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from lmcl_core import InputError, load
from lmcl_core.data.demo import load_photographs
from lmcl_core.data.distortions import DISTORTIONS, LEVELS
from lmcl_core.runs.folder import write_run
from lmcl_core.runs.model_file import BUNDLED
from lmcl_core.scoring import bundle
from lmcl_core.scoring.bundle import main
from lmcl_core.scoring.mixture import TYPES


@pytest.fixture
def run(tmp_path, weights):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    write_run(folder, {})
    return folder


def test_the_command_prints_the_hash_and_existing_weights_are_not_overwritten(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle.bundle, "__defaults__", (tmp_path,))
    main([str(run), "mine"])
    before = (path := tmp_path / "mine.safetensors").read_bytes()
    expected = f"{len(before) / 1e6:.1f} MB, SHA-256 {hashlib.sha256(before).hexdigest()}"
    assert capsys.readouterr().out == f"{path}: {expected}\n"
    with pytest.raises(InputError, match="mine.safetensors exists, .*: choose another name"):
        bundle.bundle(run, "mine")
    assert path.read_bytes() == before


def test_an_unfinished_run_and_a_bad_name_are_refused(run, tmp_path, capsys):
    with pytest.raises(InputError, match="name is '../mine'"):
        bundle.bundle(run, "../mine", tmp_path)
    (run / "run.json").unlink()
    for debug in ([], ["--debug"]):
        with pytest.raises(SystemExit, match="2"):
            main([str(run), "mine", *debug])
        lines = capsys.readouterr().err.splitlines()
        assert "holds no finished run" in lines[-1] and lines[0].startswith("Traceback" if debug else "bundle: ")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights_are_small_and_have_a_card_with_their_hash(name):
    path = BUNDLED[name]
    card, content = path.with_suffix(".md").read_text(), path.read_bytes()
    hashes = re.findall(r"`" + path.name + r"`.*SHA-256 `([0-9a-f]{64})`", card)
    assert len(content) < 12e6 and hashes == [hashlib.sha256(content).hexdigest()]


@pytest.mark.slow
def test_general_ranks_levels_of_distortion_of_photographs_that_it_never_saw():
    scorer, kept = load("general"), {name: [] for name in TYPES}
    lower, higher = np.triu_indices(LEVELS, 1)
    for number, photograph in enumerate(load_photographs().values()):
        for name, kept_of_type in kept.items():
            versions = [DISTORTIONS[name](photograph, n, np.random.default_rng(number)) for n in range(LEVELS)]
            scores = scorer.score(versions)["score"].to_numpy()
            kept_of_type.append((scores[lower] > scores[higher]).mean())
    shares = {name: float(np.mean(values)) for name, values in kept.items()}
    print(shares)
    assert np.mean(list(shares.values())) >= 0.97
