"""Scoring in parts on a Dask cluster: the same scores, whole files, what is missing alone when called again."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import contextmanager

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lmcl_core import InputError, RunError, load
from lmcl_core.model_file import BUNDLED
from lmcl_core.score_many import _kept, _names, _write, list_pictures, score_many, score_part


@pytest.fixture
def folder(tmp_path):
    """Five pictures, one of them broken."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(4):
        place = folder / "below" if n == 3 else folder
        Image.fromarray(rng.integers(0, 256, (70 + 9 * n, 80, 3), dtype=np.uint8)).save(place / f"{n}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not scored")
    return folder


@pytest.fixture
def here(monkeypatch):
    """A cluster in this process, and two pictures a part, for tests of what is not Dask's."""
    from distributed import Client

    @contextmanager
    def connect(scheduler, workers):
        with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
            yield client

    monkeypatch.setattr("lmcl_core.batch.connect", connect)
    monkeypatch.setattr("lmcl_core.score_many.PART", 2)


@pytest.fixture
def digest():
    return hashlib.sha256(BUNDLED["livec"].read_bytes()).hexdigest()


def scores(out):
    return pd.concat(pd.read_parquet(path) for path in sorted(out.glob("part-*.parquet"))).reset_index(drop=True)


def quiet(line):
    pass


def test_a_cluster_gives_the_scores_of_one_process(folder, tmp_path, monkeypatch):
    """The real cluster, with two workers of their own."""
    monkeypatch.setattr("lmcl_core.score_many.PART", 2)
    assert score_many([folder], tmp_path / "out", workers=2, log=quiet) == (4, 1)
    found = scores(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("part*")) == [f"part-0000{n}.parquet" for n in range(3)]
    assert len(pd.read_parquet(tmp_path / "out")) == len(found)  # the folder is one data set, too
    assert found["image"].tolist() == list(list_pictures([folder]))
    assert found.loc[found["score"].isna(), "image"].tolist() == [str(folder / "broken.jpg")]
    whole = found[found["fault"].isna()]
    own = load("livec").score(whole["image"].tolist())
    np.testing.assert_allclose(whole["score"], own["score"], atol=0.3)  # batches of other sizes round otherwise
    assert "broken.jpg" in found["fault"].dropna().item()


def test_called_again_it_does_what_is_missing_alone(folder, tmp_path, here, monkeypatch):
    out, told = tmp_path / "out", []
    (folder / "broken.jpg").unlink()
    score_many([folder], out, log=quiet)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part*")}
    (out / "part-00001.parquet").unlink()
    assert score_many([folder], out, log=told.append) == (4, 0)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part*")}
    assert {name for name in before if before[name] != after[name]} == {"part-00001.parquet"}
    assert ", 1 finished before" in told[0] and len(told) == 2


def test_when_nothing_is_left_to_do_no_cluster_is_started(folder, tmp_path, here, monkeypatch):
    (folder / "broken.jpg").unlink()
    score_many([folder], tmp_path / "out", log=quiet)
    monkeypatch.setattr("lmcl_core.batch.connect", None)
    assert score_many([folder], tmp_path / "out", log=quiet) == (4, 0)


def test_called_again_it_tries_what_could_not_be_read_and_keeps_the_rest(folder, tmp_path, here, monkeypatch):
    out = tmp_path / "out"
    real, refused = Image.open, [str(folder / "2.png")]

    def closed(path, *rest):
        if str(path) in refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *rest)

    monkeypatch.setattr(Image, "open", closed)
    assert score_many([folder], out, log=quiet) == (3, 2)
    before = scores(out)
    assert before["fault"].str.contains("2.png may not be read: give yourself permission").sum() == 1
    refused.clear()
    assert score_many([folder], out, log=quiet) == (4, 1)
    after = scores(out)
    assert after["image"].tolist() == before["image"].tolist() == list(list_pictures([folder]))
    same = before["score"].notna()
    assert same.sum() == 3 and before[same].equals(after[same])


def test_called_again_it_scores_pictures_that_were_changed_or_fetched_again(folder, tmp_path, here):
    out, told = tmp_path / "out", []
    score_many([folder], out, log=quiet)
    before = scores(out).set_index("image")
    shutil.copyfile(folder / "1.png", folder / "0.png")
    shutil.copyfile(folder / "2.png", folder / "broken.jpg")
    assert score_many([folder], out, log=told.append) == (5, 0)
    after = scores(out).set_index("image")
    tried = sorted(line.split(" (")[0] for line in told[1:])
    assert tried == ["part-00000.parquet: 1 picture", "part-00002.parquet: 1 picture"]
    assert after["score"][str(folder / "0.png")] == pytest.approx(before["score"][str(folder / "1.png")], abs=0.3)
    assert after["score"][str(folder / "broken.jpg")] == pytest.approx(before["score"][str(folder / "2.png")], abs=0.3)


def test_rows_of_other_weights_are_never_kept(folder, tmp_path, digest):
    files, out = list_pictures([folder / "0.png"]), str(tmp_path)
    assert score_part(files, "part-00000.parquet", out, "livec", digest, "cpu") == (1, 0)
    assert score_part(files, "part-00000.parquet", out, "livec", digest, "cpu") == (0, 0)
    assert _kept(out, "part-00000.parquet", digest, files) and not _kept(out, "part-00000.parquet", "other", files)


def test_parts_that_this_machine_does_not_see_are_told(folder, tmp_path, here, monkeypatch):
    monkeypatch.setattr("lmcl_core.score_many.score_part", lambda *rest: (2, 0))
    with pytest.raises(RunError, match="lacks part-00000.parquet, which a worker wrote"):
        score_many([folder], tmp_path / "out", log=quiet)


def test_a_damaged_part_is_done_again(folder, tmp_path, here):
    out = tmp_path / "out"
    score_many([folder / "0.png", folder / "1.png"], out, log=quiet)
    before, part = scores(out), out / "part-00000.parquet"
    for content in (b"", part.read_bytes()[:-100]):
        part.write_bytes(content)
        score_many([folder / "0.png", folder / "1.png"], out, log=quiet)
        assert scores(out).equals(before)


def test_a_name_that_is_no_text_costs_its_neighbours_nothing(folder, tmp_path, here):
    odd = folder / "caf\udce9.png"
    shutil.copyfile(folder / "0.png", odd)
    assert score_many([folder], tmp_path / "out", log=quiet) == (5, 1)
    assert str(folder / "caf\\udce9.png") in scores(tmp_path / "out")["image"].tolist()


def test_two_colons_in_a_folder_s_name_are_nothing_special(folder, tmp_path, here, monkeypatch):
    out = tmp_path / "a::b"
    score_many([folder / "0.png"], out, log=quiet)
    monkeypatch.setattr("lmcl_core.batch.connect", None)
    assert score_many([folder / "0.png"], out, log=quiet) == (1, 0)


@pytest.mark.parametrize("wrong", [dict(workers=-1), dict(device="gpu"), dict(scheduler="nowhere")])
def test_a_wrong_call_claims_no_folder(folder, tmp_path, wrong):
    with pytest.raises(InputError):
        score_many([folder], tmp_path / "out", log=quiet, **wrong)
    assert not (tmp_path / "out").exists()


def test_a_file_as_folder_of_scores_is_refused(folder):
    with pytest.raises(InputError, match="0.png, a file: name a folder"):
        score_many([folder], folder / "0.png", log=quiet)


def test_a_folder_with_the_scores_of_something_else_is_refused(folder, tmp_path, here, monkeypatch):
    out = tmp_path / "out"
    score_many([folder], out, log=quiet)
    with pytest.raises(InputError, match="scores of another list of files"):
        score_many([folder / "0.png"], out, log=quiet)
    monkeypatch.setattr("lmcl_core.score_many.PART", 3)
    with pytest.raises(InputError, match="scores in parts of another size"):
        score_many([folder], out, log=quiet)
    for damaged in ("{", "[]"):
        (out / "_order.json").write_text(damaged)
        with pytest.raises(InputError, match="_order.json is damaged"):
            score_many([folder], out, log=quiet)
    (out / "_order.json").unlink()
    with pytest.raises(InputError, match="do not say what they are of"):
        score_many([folder], out, log=quiet)


def test_a_part_that_fails_is_named_and_the_others_are_kept(folder, tmp_path, here, monkeypatch):
    def write(out, name, content):
        if name == "part-00001.parquet":
            raise RunError("no room")
        _write(out, name, content)

    monkeypatch.setattr("lmcl_core.score_many._write", write)
    with pytest.raises(RunError, match="1 of 3 parts failed .no room."):
        score_many([folder], tmp_path / "out", log=quiet)
    assert {path.name for path in (tmp_path / "out").glob("part*")} == {"part-00000.parquet", "part-00002.parquet"}


def test_an_object_store_is_read_and_written(folder, digest):
    """fsspec's store in memory stands for all of them: nothing of a path works on it."""
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/bucket/", recursive=True)
    for hidden in (".thumbnails/a.jpg", "pictures/__MACOSX/a.jpg", "pictures/.a.jpg"):
        store.pipe(f"/bucket/{hidden}", b"")
    files = list_pictures(["memory://bucket"])
    assert len(files) == 5 and all(file.startswith("memory://") for file in files)
    assert score_part(files, "part-00000.parquet", "memory://scores", "livec", digest, "cpu") == (5, 1)
    found = pd.read_parquet("memory://scores/part-00000.parquet")
    local = load("livec").score([str(folder / "0.png")])["score"].item()
    assert found["score"][0] == pytest.approx(local, abs=0.3)
    assert "memory:///bucket/pictures/broken.jpg" in found["fault"].dropna().item()


def test_what_is_gone_from_an_object_store_is_a_row_with_a_fault(digest):
    files = {"memory://gone/1.png": ""}
    assert score_part(files, "part-00000.parquet", "memory://lost", "livec", digest, "cpu") == (1, 1)
    assert "missing image memory://gone/1.png" in pd.read_parquet("memory://lost/part-00000.parquet")["fault"][0]


def test_a_store_that_does_not_answer_fails_the_part_and_writes_nothing(digest, monkeypatch):
    def silent(self, path, *rest, **options):
        raise TimeoutError("no answer")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", silent)
    with pytest.raises(OSError, match="no answer"):
        score_part({"memory://silent/1.png": ""}, "part-00000.parquet", "memory://nothing", "livec", digest, "cpu")
    assert not fsspec.filesystem("memory").exists("/nothing/part-00000.parquet")


def test_a_worker_that_finds_other_weights_refuses(digest):
    with pytest.raises(InputError, match="finds other weights at livec"):
        score_part({"a.png": ""}, "part-00000.parquet", "memory://other", "livec", digest[::-1], "cpu")


@pytest.mark.parametrize("address", ["nonsense://bucket", "abfs://bucket/pictures", "memory://nowhere"])
def test_an_address_that_cannot_be_reached_or_holds_nothing_is_named(address, folder):
    with pytest.raises(InputError, match=address.split(":")[0]):
        list_pictures([folder, address])


def test_a_folder_without_pictures_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(InputError, match="no pictures in"):
        score_many([tmp_path], tmp_path / "out", log=quiet)
    assert os.listdir(tmp_path) == []


def test_workers_that_nobody_starts_again_end_the_command_and_finished_parts_are_kept(folder, tmp_path, monkeypatch):
    """The real cluster, whose one worker is given up after the first part."""
    from lmcl_core import batch

    real = batch.connect

    @contextmanager
    def connect(scheduler, workers):
        with real(scheduler, 1) as client:
            clients.append(client)
            yield client

    def log(line):
        if line.startswith("part-00000"):
            _, keeper = clients[0].cluster.workers.popitem()
            clients[0].cluster.sync(keeper.close)

    clients = []
    monkeypatch.setattr(batch, "connect", connect)
    monkeypatch.setattr(batch, "_SECONDS_TO_LOOK", 0.2)
    monkeypatch.setattr("lmcl_core.score_many.PART", 2)
    with pytest.raises(RunError, match="every worker was lost"):
        score_many([folder], tmp_path / "out", log=log)
    assert [path.name for path in sorted((tmp_path / "out").glob("part-*"))] == ["part-00000.parquet"]


def test_a_folder_that_is_not_there_and_one_that_holds_other_files_are_refused(folder, tmp_path, here):
    with pytest.raises(InputError, match="gone is not there: name picture files"):
        score_many([tmp_path / "gone"], tmp_path / "out", log=quiet)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="holds other files, such as 0.png: name a folder for scores alone"):
        score_many([folder], folder, log=quiet)


def test_a_store_that_lists_a_folder_among_its_own_files_is_no_folder_of_other_files(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "exists", lambda self, path: True)
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda self, path, detail: [f"{path}/"])
    assert _names("memory://bucket/out", {}) == set()
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda self, path, detail: [f"{path}/", f"{path}/notes.txt"])
    with pytest.raises(InputError, match=r"other files, such as notes\.txt"):
        _names("memory://bucket/out", {})
