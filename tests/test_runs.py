"""A finished run is known by its files and hashes; a different one is never taken for it."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from lmcl_core import InputError, Recipe, RunError, load_benchmark, make_split
from lmcl_core import runs
from lmcl_core.runs import IDENTITY, check_same, finished_run, identity, provenance, read_predictions, read_run
from lmcl_core.runs import run_folder, write_run

from layouts import write_results

WANTED = dict(benchmark="livec", recipe_hash="r", data_hash="d", split_hash="s")


@pytest.fixture
def finished(tmp_path) -> Path:
    """A run folder with all the files of a finished run."""
    write_run(tmp_path, {**WANTED, "seconds": 1.5, "metrics": dict(plcc=0.5, srcc=0.5, n=1)})
    write_results(tmp_path, pd.DataFrame(dict(image=["a.png"], mos=[1.0], pred=[2.0])))
    return tmp_path


def test_run_folders_lie_by_benchmark_recipe_and_split():
    assert run_folder("runs", "livec", "lmcl", 3) == Path("runs/livec/lmcl/split-03")
    assert run_folder(Path("/r"), "demo", "no-manifold", 12) == Path("/r/demo/no-manifold/split-12")


def test_a_finished_run_is_found_with_its_record(finished):
    record = finished_run(finished, WANTED)
    assert record["seconds"] == 1.5 and record == read_run(finished)


@pytest.mark.parametrize("name", ["run.json", "predictions.csv", "model.safetensors"])
def test_a_run_that_lacks_a_file_is_not_finished(finished, name):
    (finished / name).unlink()
    assert finished_run(finished, WANTED) is None


@pytest.mark.parametrize("name", ["history.csv", "predictions.csv", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 4])
def test_a_finished_run_whose_file_was_cut_is_damaged(finished, name, kept):
    (finished / name).write_bytes((finished / name).read_bytes()[:kept])
    with pytest.raises(InputError, match=re.escape(f"{finished / name} is damaged")):
        finished_run(finished, WANTED)


@pytest.mark.parametrize(
    "text", ["image,mos,pred\n", "image,mos,pred\na.png,1,good\n", "image,mos,pred\na,1,2\nb,1,2\n"]
)
def test_predictions_that_are_not_those_of_the_run_are_damage(finished, text):
    (finished / "predictions.csv").write_text(text)
    with pytest.raises(InputError, match=r"predictions\.csv is damaged \(not 1 predictions\)"):
        finished_run(finished, WANTED)


@pytest.mark.parametrize("metrics", [3, None, {}, dict(plcc=None, srcc=0.5, n=1), dict(plcc="a", srcc=0.5, n=1)])
def test_metrics_that_are_none_are_damage(finished, metrics):
    write_run(finished, {**WANTED, "metrics": metrics})
    with pytest.raises(InputError, match=r"run\.json is damaged \(its metrics are\)"):
        finished_run(finished, WANTED)


@pytest.mark.parametrize("name", ["run.json", "checkpoint.pt", "history.csv"])
def test_a_folder_in_the_place_of_a_file_is_found_before_anything_is_trained(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is no file, and in the way"):
        runs.refuse_strange(tmp_path)


def test_files_that_belong_to_no_run_are_not_written_over(finished):
    runs.refuse_strange(finished)
    runs.refuse_strange(finished / "not there")
    (finished / "run.json").rename(finished / "checkpoint.pt")
    runs.refuse_strange(finished)
    (finished / "checkpoint.pt").unlink()
    (finished / "history.csv").unlink()
    said = f"{finished} holds predictions.csv and model.safetensors but no run"
    with pytest.raises(InputError, match=re.escape(said)):
        runs.refuse_strange(finished)
    runs.discard(finished)
    runs.refuse_strange(finished)
    assert not list(finished.iterdir())


def test_a_folder_that_is_not_there_holds_no_run(tmp_path):
    assert read_run(tmp_path / "no") is None and finished_run(tmp_path / "no", WANTED) is None


@pytest.mark.parametrize("key", IDENTITY)
def test_a_run_of_something_else_is_refused_by_what_differs(finished, key):
    with pytest.raises(InputError, match=re.escape(f"{finished} holds another run (different: {key})")) as caught:
        finished_run(finished, {**WANTED, key: "other"})
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "image,mos\na.png,1\n", "image,mos,pred\na,1\nb,2,3,4\n"])
def test_predictions_that_cannot_be_read_are_told_with_their_file(tmp_path, content):
    if content is not None:
        (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'predictions.csv'} is damaged")):
        read_predictions(tmp_path)


def test_all_that_differs_is_named():
    with pytest.raises(InputError, match="different: recipe_hash, split_hash"):
        check_same({**WANTED, "recipe_hash": "x", "split_hash": "y"}, WANTED, Path("a"))


def test_a_record_without_a_hash_is_another_run():
    with pytest.raises(InputError, match="data_hash"):
        check_same({key: value for key, value in WANTED.items() if key != "data_hash"}, WANTED, Path("a"))


@pytest.mark.parametrize("text", ["", '{"benchmark": "li', "\0\0\0", "[]", "7", "[" * 100_000])
def test_a_damaged_record_is_named(finished, text):
    (finished / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged .*delete that folder"):
        finished_run(finished, WANTED)


def test_what_a_record_lacks_is_named(finished):
    assert read_run(finished, ["seconds"])["seconds"] == 1.5
    with pytest.raises(InputError, match=r"run\.json lacks threads, device: .* train again elsewhere"):
        read_run(finished, ["seconds", "threads", "device"])


def test_a_record_of_undecodable_bytes_is_damaged(finished):
    (finished / "run.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        read_run(finished)


def test_what_a_run_is_a_run_of_follows_recipe_data_and_split(livec):
    table = load_benchmark("livec", livec)
    first = identity(table, make_split(table, 0), Recipe())
    assert tuple(first) == (*IDENTITY, "recipe") and first["benchmark"] == "livec"

    def differing(other):
        return {key for key in IDENTITY if other[key] != first[key]}

    assert not differing(identity(table, make_split(table, 0), Recipe(name="other")))
    assert differing(identity(table, make_split(table, 1), Recipe())) == {"split_hash"}
    assert differing(identity(table, make_split(table, 0), Recipe(epochs=1))) == {"recipe_hash"}
    changed = table.assign(mos=table["mos"] + 1)
    changed.attrs = table.attrs
    assert differing(identity(changed, make_split(changed, 0), Recipe())) == {"data_hash"}


def test_the_commit_and_whether_it_was_changed_are_told(monkeypatch, tmp_path):
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "lmcl_core").mkdir()
    (tmp_path / "lmcl_core" / "runs.py").write_text("")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "lmcl_core" / "runs.py"))
    assert (provenance()["commit"], provenance()["dirty"]) == (git("rev-parse", "HEAD").strip(), False)
    (tmp_path / "lmcl_core" / "runs.py").write_text("changed")
    assert provenance()["dirty"] is True


def code(commit, dirty):
    return dict(commit=commit, dirty=dirty, versions={})


@pytest.mark.parametrize(
    "before, now, both, words",
    [
        (None, ("b", False), ("b", False), "b"),
        (("b", False), ("b", False), ("b", False), "b"),
        (("b", True), ("b", False), ("b", True), "b with changes"),
        (("a, b", False), ("c", False), ("a, b, c", False), "a, b, c"),
        (("a, b", False), ("a", True), ("a, b", True), "a, b with changes"),
        ((None, None), (None, None), (None, None), "not known"),
        ((None, None), ("b", False), ("not known, b", False), "not known, b"),
    ],
)
def test_a_run_of_two_versions_tells_both(before, now, both, words):
    found = runs.made_by_both(before and code(*before), code(*now))
    assert found == code(*both) and runs.commit_in_words(found) == words


def test_the_versions_of_the_packages_are_told():
    versions = provenance()["versions"]
    assert set(versions) == set(runs.PACKAGES) and all(versions.values())
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_without_git_the_commit_is_not_known(monkeypatch):
    def no_git(*args, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(runs.subprocess, "run", no_git)
    assert (provenance()["commit"], provenance()["dirty"]) == (None, None)


def test_a_git_that_hangs_does_not_lose_the_run(monkeypatch, tmp_path):
    def hang(*args, **options):
        raise subprocess.TimeoutExpired("git", 20)

    monkeypatch.setattr(runs.subprocess, "run", hang)
    write_run(tmp_path, WANTED)
    assert read_run(tmp_path)["commit"] is None


def test_outside_a_checkout_the_commit_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "lmcl_core" / "runs.py"))
    assert (provenance()["commit"], provenance()["dirty"]) == (None, None)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(runs, "PACKAGES", ("numpy", "no-such-package"))
    versions = provenance()["versions"]
    assert versions["numpy"] and versions["no-such-package"] is None


def test_a_record_keeps_what_it_was_given_and_where_it_came_from(tmp_path):
    write_run(tmp_path / "new" / "split-00", dict(WANTED, metrics={"plcc": 0.5}))
    record = json.loads((tmp_path / "new" / "split-00" / "run.json").read_text())
    assert record["metrics"] == {"plcc": 0.5} and {"commit", "dirty", "versions"} <= set(record)


def test_a_full_disk_leaves_the_old_record_and_no_half_one(finished, monkeypatch):
    before = (finished / "run.json").read_text()

    def no_room(*args):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(RunError, match=r"disk full while saving .*run\.json"):
        write_run(finished, WANTED)
    assert (finished / "run.json").read_text() == before
    assert sorted(path.name for path in finished.iterdir()) == [
        "history.csv",
        "model.safetensors",
        "predictions.csv",
        "run.json",
    ]


def test_a_record_that_cannot_be_written_as_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_run(tmp_path, {"metrics": object()})
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from lmcl_core import runs
with runs.reserved(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_belongs_to_one_process_until_that_ends_however_it_ends(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match="another process is training in"), runs.reserved(folder, patience=0.2):
            pass
        other.kill()
    with runs.reserved(folder, patience=5):
        pass
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot save"), runs.reserved(tmp_path / "file" / "run"):
        pass
