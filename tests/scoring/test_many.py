"""Scoring on a Dask cluster: the scores of one process, and a repeated call that scores only what is missing."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import fsspec
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from PIL import Image
from scheduler import SCHEDULER

from lmcl_core import InputError, RunError, load
from lmcl_core.batch.cluster import connect
from lmcl_core.scoring import many
from lmcl_core.scoring.many import score_many

FIRST = "part-00000.parquet"


@pytest.fixture
def folder(tmp_path):
    """Four images, a broken one, and a file that is no image."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(4):
        place = folder / "below" if n == 3 else folder
        Image.fromarray(rng.integers(0, 256, (70 + 9 * n, 80, 3), dtype=np.uint8)).save(place / f"{n}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not scored")
    return folder


@pytest.fixture(autouse=True)
def two_images_a_chunk(monkeypatch):
    monkeypatch.setattr(many, "CHUNK", 2)


@pytest.fixture(scope="module")
def client():
    """A cluster in this process, which sees the patches and the in-memory store of a test."""
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        yield client


@pytest.fixture
def score(client, weights):
    """`score_many` in this process; its log lines are in `score.lines`."""

    def score(sources, out, weights=weights):
        score.lines.clear()
        return score_many(sources, out, weights, cluster=nullcontext(client), device="cpu", log=score.lines.append)

    score.lines = []
    return score


def scores(out):
    return pd.concat(pd.read_parquet(path) for path in sorted(out.glob("part-*.parquet"))).reset_index(drop=True)


@pytest.mark.slow
def test_worker_processes_give_the_scores_of_one_process(folder, tmp_path, weights):
    assert score_many([folder], tmp_path / "out", weights, cluster=connect(workers=2), log=str) == (4, 1)
    found = scores(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("part*")) == [f"part-0000{n}.parquet" for n in range(3)]
    assert pd.read_parquet(tmp_path / "out").columns.tolist() == ["image", "score", "percentile", "fault"]
    names = ["0.png", "1.png", "2.png", "below/3.png", "broken.jpg"]
    assert found["image"].tolist() == [str(folder / name) for name in names]
    assert found["score"].isna().tolist() == [False] * 4 + [True] and "broken.jpg" in found["fault"][4]
    own = load(weights).score(found["image"][:4].tolist())
    np.testing.assert_allclose(found["score"][:4], own["score"], atol=1e-3)


def test_a_repeated_call_scores_only_the_missing_chunks(folder, tmp_path, score):
    out = tmp_path / "out"
    (folder / "broken.jpg").unlink()
    assert score([folder], out) == (4, 0)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part*")}
    (out / "part-00001.parquet").unlink()
    assert score([folder], out) == (4, 0)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part*")}
    assert {name for name in before if before[name] != after[name]} == {"part-00001.parquet"}
    assert "1 finished before" in score.lines[0] and len(score.lines) == 1
    assert score([folder], out) == (4, 0) and len(score.lines) == 1


@pytest.mark.slow
def test_a_damaged_chunk_is_scored_again(folder, tmp_path, score):
    out = tmp_path / "out"
    score([folder / "0.png", folder / "1.png"], out)
    before, content = scores(out), (out / FIRST).read_bytes()
    for damage in (lambda path: path.write_bytes(content[:-100]), pd.DataFrame(dict(image=["a.png"])).to_parquet):
        damage(out / FIRST)
        score([folder / "0.png", folder / "1.png"], out)
        assert scores(out).equals(before)


@pytest.mark.slow
def test_a_folder_of_other_scores_or_files_is_refused(folder, tmp_path, score, monkeypatch):
    out = tmp_path / "out"
    score([folder], out)
    with pytest.raises(InputError, match="scores of another list of files"):
        score([folder / "0.png"], out)
    with monkeypatch.context() as patch:
        patch.setattr(many, "CHUNK", 3)
        with pytest.raises(InputError, match="of other weights and in chunks of another size"):
            score([folder], out, "livec")
    (out / "_order.json").write_text("{")
    with pytest.raises(InputError, match="_order.json is damaged"):
        score([folder], out)
    (out / "_order.json").unlink()
    with pytest.raises(InputError, match=f"holds other files, such as {FIRST}: name an empty folder"):
        score([folder], out)


def test_a_failed_chunk_is_named_and_the_others_are_kept(folder, tmp_path, score, monkeypatch):
    real = many._write

    def write(out, name, content):
        if name == "part-00001.parquet":
            raise RunError("disk full")
        real(out, name, content)

    monkeypatch.setattr(many, "_write", write)
    with pytest.raises(RunError, match="1 of 3 chunks failed .disk full."):
        score([folder], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("part*")} == {FIRST, "part-00002.parquet"}


def test_a_call_whose_chunks_all_fail_stops_early(folder, tmp_path, score, monkeypatch):
    def write(out, name, content):
        if name.startswith("part-"):
            raise RunError("disk full")

    monkeypatch.setattr(many, "_write", write)
    with pytest.raises(RunError, match="2 of 3 chunks failed .disk full.*0 of 3 chunks, 0 of 5 images"):
        score([folder], tmp_path / "out")


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_the_call_and_a_repeated_call_goes_on(
    folder, tmp_path, score, weights, monkeypatch
):
    def bar(chunks, count, title):
        for finished in chunks:
            yield finished
            scheduler.kill()

    monkeypatch.setattr(many, "bar", bar)
    with subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True) as scheduler:
        cluster = connect(scheduler.stdout.readline().strip())
        message = "scheduler was lost.*run the same command again.*kept .1 of 3 chunks, 2 of 5 images."
        with pytest.raises(RunError, match=message):
            score_many([folder], tmp_path / "out", weights, cluster=cluster, device="cpu", log=str)
    monkeypatch.undo()
    monkeypatch.setattr(many, "CHUNK", 2)
    assert score([folder], tmp_path / "out") == (4, 1) and "1 finished before" in score.lines[0]


@pytest.fixture
def store():
    """The in-memory file system of fsspec in place of an object store."""
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


def test_images_and_scores_in_an_object_store(folder, store, score, weights):
    store.put(str(folder), "/bucket/", recursive=True)
    for hidden in (".thumbnails/a.jpg", "images/__MACOSX/a.jpg", "images/.a.jpg"):
        store.pipe(f"/bucket/{hidden}", b"")
    assert score(["memory://bucket"], "memory://scores") == (4, 1)
    found = pd.concat(pd.read_parquet(f"memory://scores/part-0000{n}.parquet") for n in range(3))
    assert found["image"].str.startswith("memory://").all() and len(found) == 5
    local = load(weights).score([str(folder / "0.png")])["score"].item()
    assert found["score"].iloc[0] == pytest.approx(local, abs=1e-3)
    assert "memory:///bucket/images/broken.jpg" in found["fault"].dropna().item()
    store.pipe("/bucket/images/broken.jpg", (folder / "0.png").read_bytes())
    assert score(["memory://bucket"], "memory://scores") == (5, 0) and "2 finished before" in score.lines[0]


@pytest.mark.parametrize("address", ["nonsense://bucket", "memory://nowhere", "s3://"])
def test_an_address_that_cannot_be_reached_or_holds_nothing_is_named(address, folder, tmp_path, score):
    with pytest.raises(InputError, match=address.split(":")[0]):
        score([folder, address], tmp_path / "out")
    if address != "memory://nowhere":
        with pytest.raises(InputError, match=address.split(":")[0]):
            score([folder], address)


@pytest.mark.slow
def test_the_loss_of_every_worker_ends_the_call_and_keeps_finished_chunks(folder, tmp_path, weights, monkeypatch):
    def bar(chunks, count, title):
        for finished in chunks:
            yield finished  # its result is read from the worker before the worker is lost
            _, nanny = client.cluster.workers.popitem()
            client.cluster.sync(nanny.close)

    monkeypatch.setattr(many, "bar", bar)
    monkeypatch.setattr("lmcl_core.common.tasks._SECONDS_TO_LOOK", 0.2)
    with connect(workers=1) as client, pytest.raises(RunError, match="every worker was lost"):
        score_many([folder], tmp_path / "out", weights, cluster=nullcontext(client), log=lambda line: None)
    assert [path.name for path in (tmp_path / "out").glob("part-*")] == [FIRST]
