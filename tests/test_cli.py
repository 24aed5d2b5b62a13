"""The command line: its exit codes, its two-line errors, and what it prints."""

from __future__ import annotations

import json
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

from lmcl_core import BENCHMARKS, InputError, QualityModel, Recipe, RunError, Split, load_benchmark, make_split
from lmcl_core import split_hash
from lmcl_core.arguments import parse_changes, parse_split
from lmcl_core.cli import _kept, main
from lmcl_core.runs import run_folder
from lmcl_core.model_file import save_model


@pytest.fixture
def lmcl(capsys):
    """Run the command line: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return stopped.value.code, said.out, said.err

    return run


@pytest.fixture
def refused(lmcl):
    """Run a command that must fail with a code, and return its one or two lines."""

    def run(code: int, *arguments: object) -> str:
        found, out, err = lmcl(*arguments)
        assert found == code, err
        assert out == "" and 1 <= len(err.splitlines()) <= 2 and "Traceback" not in err, err
        assert err.startswith("lmcl: ")
        return err

    return run


@pytest.fixture
def sound(livec, monkeypatch) -> Path:
    """A copy of LIVEC that counts as complete."""
    monkeypatch.setitem(BENCHMARKS, "livec", dataclasses.replace(BENCHMARKS["livec"], count=12))
    return livec


@pytest.fixture
def trained(monkeypatch) -> list:
    """What the training was asked to do, without doing it."""
    asked = []

    def train(table, split, recipe, folder, device, resume, log):
        asked.append(dict(table=table, split=split, recipe=recipe, folder=folder, device=device, resume=resume))
        return dict(srcc=0.5, plcc=0.25)

    monkeypatch.setattr("lmcl_core.training.train", train)
    return asked


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The run folder of an untrained model."""
    folder = tmp_path_factory.mktemp("run")
    table = pd.DataFrame({"mos": np.linspace(0, 100, 11)})
    table.attrs.update(benchmark="livec", mos_range=(0.0, 100.0))
    recipe = Recipe(pretrained=False, crop_size=32, test_crops=2, precision="32-true")
    with torch.random.fork_rng(devices=[]):
        model = QualityModel(pretrained=False, crop_size=32)
    save_model(
        folder / "model.safetensors",
        model,
        recipe,
        table,
        Split(np.arange(8), np.arange(0), np.arange(8, 11)),
        mos_mean=50.0,
        mos_std=10.0,
        largest_short_side=100,
    )
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of three pictures, one below another folder."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b, c.JPG", "more/d.bmp"]):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "JPEG" if name.endswith("JPG") else None)
    return folder


def rows(out: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(out))


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_command(lmcl):
    code, out, err = lmcl("--help")
    assert code == 0 and err == ""
    for command in ("reproduce", "verify", "download", "train", "score", "--debug"):
        assert command in out


@pytest.mark.parametrize("command", ["reproduce", "verify", "download", "train", "score"])
def test_every_command_has_help(lmcl, command):
    code, out, _ = lmcl(command, "--help")
    assert code == 0 and f"lmcl {command}" in out


def test_without_a_command_the_help_comes_as_help_not_as_an_error(lmcl):
    code, out, err = lmcl()
    assert code == 2 and "Usage: lmcl" in out + err
    assert not err.startswith("lmcl: Usage") and "Try `lmcl --help`" not in err


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["nosuch"], "nosuch"),
        (["verify"], "benchmark"),
        (["verify", "livec", "a", "b"], "b"),
        (["verify", "livec", "--nosuch"], "--nosuch"),
        (["train", "--split", "x"], "--split"),
        (["train", "--split", "²"], "--split"),
        (["train", "--split", "9" * 5000], "nine digits at most"),
        (["train", "--runs-dir", __file__], "is a file: name a folder"),
        (["verify", "demo", "--show", "-1"], "--show"),
        (["verify", "livec", "~nobody-of-this-name"], "cannot be followed as a path"),
        (["download", "csiq", ""], "the folder to download to is empty"),
        (["download", "kadid10k"], "folder"),
        (["reproduce", "--benchmark", "demo,demo"], "different ones"),
        (["train", "--nosuch", "1"], "--nosuch"),
        (["score"], "paths"),
        (["score", "a.png", "--format", "xml"], "csv, json"),
        (["score", "--weights", "a"], "paths"),
        (["reproduce", "--splits", "many"], "--splits"),
    ],
)
def test_wrong_use_is_exit_2_and_names_the_argument(refused, arguments, named):
    assert named in refused(2, *arguments)


def test_an_unknown_benchmark_is_answered_with_the_nearest(refused):
    assert "did you mean 'livec'" in refused(2, "verify", "livecc", "folder")
    assert "did you mean 'livec'" in refused(2, "train", "--benchmark", "livecc")
    assert "did you mean 'demo'" in refused(2, "reproduce", "--benchmark", "demos")


@pytest.mark.parametrize(
    "command", [["verify", "livec"], ["train", "--benchmark", "livec"], ["reproduce", "--benchmark", "livec"]]
)
def test_a_benchmark_without_its_folder_is_wrong_use(refused, command):
    assert "--data-root" in refused(2, *command)


def test_a_folder_that_is_not_there_is_named(refused, tmp_path):
    said = refused(2, "train", "--benchmark", "livec", "--data-root", tmp_path / "no")
    assert str(tmp_path / "no") in said and "ChallengeDB_release" in said


@pytest.mark.parametrize(
    "change, said",
    [
        ("epoch=3", "unknown recipe field 'epoch': did you mean 'epochs'?"),
        ("benchmark=3", "unknown recipe field 'benchmark'"),
        ("recipe=x", "unknown recipe field 'recipe'"),
        ("epochs=many", "epochs is 'many'"),
        ("epochs=1.5", "epochs is 1.5"),
        ("epochs=true", "epochs is True"),
        ("epochs=0", "epochs is 0: it must be 1 to 65536"),
        ("crop_size=1", "crop_size is 1: it must be 8 to 4096"),
        ("embedding_dim=1000000000", "it must be 1 to 65536"),
        ("test_crops=1000000000", "it must be 1 to 4096"),
        ("scales=[1e30]", "of 1000 at most"),
        ("lr=NaN", "finite"),
        ("scales=[]", "scales"),
        ("name=../up", "usable as a folder name"),
        ("epochs", "write FIELD=VALUE"),
    ],
)
def test_a_bad_change_of_the_recipe_is_wrong_use(refused, livec, trained, change, said):
    assert said in refused(2, "train", "--benchmark", "livec", "--data-root", livec, "--set", change)
    assert trained == []


def test_a_change_that_the_named_recipe_would_undo_is_wrong_use(refused, livec, trained):
    about = ("train", "--benchmark", "livec", "--data-root", livec, "--recipe", "no-manifold")
    assert "cannot be changed in 'no-manifold'" in refused(2, *about, "--set", "manifold_weight=0.3")
    assert trained == []


def test_a_bad_change_is_found_before_the_demo_is_built(refused, monkeypatch):
    monkeypatch.setattr("lmcl_core.demo.build_demo", lambda *args: pytest.fail("the demo was asked for first"))
    for command in ("train", "reproduce"):
        assert "did you mean 'epochs'" in refused(2, command, "--set", "epoch=3")


def test_an_unknown_recipe_is_answered_with_the_nearest(refused, livec):
    said = refused(2, "train", "--benchmark", "livec", "--data-root", livec, "--recipe", "no-manifolds")
    assert "did you mean 'no-manifold'" in said


@pytest.mark.parametrize("arguments", [["train", "--split", "-1"], ["reproduce", "--splits", "0"]])
def test_a_number_of_splits_out_of_range_is_wrong_use(refused, livec, arguments):
    assert "split" in refused(2, *arguments, "--benchmark", "livec", "--data-root", livec)


def test_changes_are_json_or_plain_words():
    given = ["epochs=3", "variant=v2", "scales=[1, 2.5]", "flip=false", "quality_sigma=null", "name=a=b"]
    assert parse_changes(given) == dict(
        epochs=3, variant="v2", scales=[1, 2.5], flip=False, quality_sigma=None, name="a=b"
    )
    assert parse_changes(None) == {}


def test_train_passes_on_what_it_was_asked(lmcl, livec, trained, tmp_path):
    code, out, _ = lmcl(
        "train",
        "--benchmark",
        "livec",
        "--data-root",
        livec,
        "--split",
        "3",
        "--recipe",
        "no-manifold",
        "--runs-dir",
        tmp_path / "runs",
        "--device",
        "cpu",
        "--set",
        "epochs=2",
        "--set",
        "name=mine",
        "--overwrite",
    )
    asked = trained[0]
    assert code == 0 and "SRCC 0.5000" in out and "PLCC 0.2500" in out
    assert asked["folder"] == tmp_path / "runs" / "livec" / "mine" / "split-03" and str(asked["folder"]) in out
    assert asked["recipe"] == Recipe.for_benchmark("livec", "no-manifold", epochs=2, name="mine")
    assert asked["split"].index == 3 and asked["device"] == "cpu" and asked["resume"] is False


def test_a_validation_run_leaves_the_test_part_out_and_has_a_folder_of_its_own(lmcl, livec, trained, tmp_path):
    arguments = ["--benchmark", "livec", "--data-root", livec, "--runs-dir", tmp_path / "runs"]
    code, out, _ = lmcl("train", *arguments, "--split", "1", "--validation")
    assert lmcl("train", *arguments, "--split", "1")[0] == code == 0 and "validation SRCC" in out
    chosen, numbered = (asked["split"] for asked in trained)
    assert trained[0]["folder"].name == "split-01-val" and trained[1]["folder"].name == "split-01"
    assert len(chosen.test) and not set(numbered.test) & {*chosen.train, *chosen.test}


@pytest.mark.parametrize("error, code", [(InputError("bad thing: mend it"), 2), (RunError("disk full: mend it"), 1)])
def test_the_two_kinds_of_error_have_their_exit_codes(refused, livec, monkeypatch, error, code):
    def train(*args, **options):
        raise error

    monkeypatch.setattr("lmcl_core.training.train", train)
    assert refused(code, "train", "--benchmark", "livec", "--data-root", livec) == f"lmcl: {error}\n"


def test_an_unforeseen_error_is_one_line_that_points_to_debug(refused, sound, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("one\ntwo\nthree\nfour")

    monkeypatch.setattr("lmcl_core.verify.verify_benchmark", fail)
    said = refused(1, "verify", "livec", sound)
    assert "ZeroDivisionError" in said and "--debug" in said


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(36, "File name too long", "a.png"), "cannot use a.png: File name too long; check the path"),
        (OSError(28, "No space left on device"), "disk full while saving what was printed"),
        (OSError("of an unknown kind"), "unexpected OSError: of an unknown kind"),
    ],
)
def test_what_the_system_refuses_is_told_by_its_file(refused, sound, monkeypatch, error, said):
    def fail(*args):
        raise error

    monkeypatch.setattr("lmcl_core.verify.verify_benchmark", fail)
    assert said in refused(1, "verify", "livec", sound)


@pytest.mark.parametrize("closed, code", [(">&-", 2), ("2>&-", 0), (">&- 2>&-", 2)])
def test_closed_streams_end_in_no_traceback(closed, code):
    done = subprocess.run(
        f"{sys.executable} -m lmcl_core --help {closed}", shell=True, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code and done.stdout.startswith("Usage") == (code == 0)
    assert done.stderr.startswith("lmcl: standard output is closed") == (closed == ">&-"), done.stderr


def test_a_path_that_the_terminal_cannot_spell_stops_nothing():
    code = (
        "from lmcl_core import cli\n"
        "@cli.app.command()\n"
        "def say() -> None:\n"
        "    print('fotos-\\u00fc')\n"
        "cli.main(['say'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, rb"fotos-\xfc" + b"\n"), done.stderr


def test_a_stopped_command_says_how_to_go_on(lmcl, livec, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmcl_core.training.train", stop)
    code, _, err = lmcl("train", "--benchmark", "livec", "--data-root", livec)
    assert code == 130 and "go on" in err and "Traceback" not in err


def test_a_termination_stops_as_ctrl_c_does(tmp_path):
    code = (
        "import os, signal, sys; import lmcl_core.verify as v\n"
        "v.verify_benchmark = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from lmcl_core.cli import main; main(['verify', 'demo'])"
    )
    done = python(code)
    assert done.returncode == 130 and done.stderr == "lmcl: stopped\n"


def test_debug_shows_the_traceback_wherever_it_stands(lmcl):
    for arguments in (["--debug", "verify", "nosuch"], ["verify", "nosuch", "--debug"]):
        code, _, err = lmcl(*arguments)
        assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("lmcl: unknown benchmark")


def test_a_sound_folder_is_exit_0_with_its_ten_split_hashes(lmcl, sound):
    code, out, err = lmcl("verify", "livec", sound)
    assert code == 0 and err == "" and out.startswith("livec: 12 images, no faults; labels from ")
    assert "AllMOS_release.mat: people's mean opinion score, 0 to 100\n" in out
    found = re.findall(r"^split (\d): ([0-9a-f]{12})  10 train, 2 test, 0 contents shared$", out, re.M)
    table = load_benchmark("livec", sound)
    assert found == [(str(index), split_hash(table, make_split(table, index))) for index in range(10)]


def test_a_faulty_folder_is_exit_1_with_one_line_a_fault(lmcl, sound):
    images = sound / "ChallengeDB_release" / "Images"
    (images / "5.bmp").unlink()
    (images / "6.bmp").write_bytes(b"")
    code, out, err = lmcl("verify", "livec", sound)
    lines = err.splitlines()
    assert code == 1 and out == "" and len(lines) == 3
    assert lines[0].startswith("missing_image: ") and "5.bmp: " in lines[0]
    assert lines[1].startswith("unreadable_image: ") and "6.bmp: " in lines[1]
    assert lines[2] == "livec: 2 faults"


def test_one_fault_is_not_called_several(lmcl, tmp_path):
    code, _, err = lmcl("verify", "livec", tmp_path / "no")
    assert code == 1 and err.splitlines()[0].startswith("missing_folder: ") and err.splitlines()[-1] == "livec: 1 fault"


@pytest.mark.parametrize("options, shown", [([], 10), (["--show", 3], 3), (["--show", 0], 0)])
def test_many_faults_of_a_kind_are_capped(lmcl, sound, options, shown):
    images = sound / "ChallengeDB_release" / "Images"
    for path in images.glob("*.*"):
        path.unlink()
    code, _, err = lmcl("verify", "livec", sound, *options)
    lines = err.splitlines()
    assert (
        code == 1
        and sum(line.startswith("missing_image: ") and ".bmp: " in line or ".JPG: " in line for line in lines) == shown
    )
    assert lines[-2:] == [f"missing_image: {12 - shown} more", "livec: 12 faults"]


def test_splits_of_the_same_parts_are_told(lmcl):
    code, out, _ = lmcl("verify", "demo")
    hashes = re.findall(r"split \d: (\w+)", out)
    assert code == 0 and out.count("the same as split") == len(hashes) - len(set(hashes)) > 0


def test_deep_decodes_every_image(lmcl, sound):
    path = sound / "ChallengeDB_release" / "Images" / "3.JPG"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd8" * 50 + data[len(data) // 2 + 100 :])
    assert lmcl("verify", "livec", sound)[0] == 0
    code, _, err = lmcl("verify", "livec", sound, "--deep")
    assert code == 1 and "unreadable_image" in err


def test_verify_leaves_no_store_or_run_behind(lmcl, sound, tmp_path, monkeypatch):
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path / "cache"))
    lmcl("verify", "livec", sound)
    assert not (tmp_path / "cache").exists()


def test_pictures_are_scored_as_csv(lmcl, weights, pictures):
    code, out, err = lmcl("score", "--weights", weights, pictures)
    found = rows(out)
    assert code == 0 and err == "" and list(found.columns) == ["image", "score", "percentile"]
    assert list(found["image"]) == [str(pictures / name) for name in ("a.png", "b, c.JPG", "more/d.bmp")]
    assert np.isfinite(found["score"]).all() and found["percentile"].between(0, 100).all()
    again = lmcl("score", "--weights", weights / "model.safetensors", pictures / "more" / "d.bmp")[1]
    assert rows(again)["score"].item() == found["score"][2]


def test_unreadable_pictures_are_listed_and_the_rest_scored(lmcl, weights, pictures):
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:500])
    (pictures / "text.jpg").write_text("no picture")
    code, out, err = lmcl("score", "--weights", weights, pictures, pictures / "missing.png", pictures / ("long" * 99))
    assert code == 1 and len(rows(out)) == 3
    for name in ("broken.png", "text.jpg", "missing.png", "long" * 99):
        assert sum(str(pictures / name) in line for line in err.splitlines()) == 1
    assert len(err.splitlines()) == 4 and "Traceback" not in err


def test_pictures_of_every_usual_format_are_taken_from_a_folder(lmcl, weights, tmp_path):
    formats = ["webp", "gif", "tif", "ppm", "pgm", "jp2"]
    for suffix in formats:
        Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / f"a.{suffix}")
    (tmp_path / "folder.jpg").mkdir()
    code, out, err = lmcl("score", "--weights", weights, tmp_path)
    assert code == 0 and len(rows(out)) == len(formats), err


def test_a_picture_of_floating_point_numbers_is_refused_not_scored_as_black(lmcl, weights, tmp_path):
    Image.fromarray(np.random.default_rng(0).random((40, 40), np.float32)).save(tmp_path / "a.tif")
    code, out, err = lmcl("score", "--weights", weights, tmp_path / "a.tif")
    assert code == 1 and len(rows(out)) == 0 and "save it with 8 or 16 bits" in err


def test_a_gigantic_picture_does_not_stop_the_rest(lmcl, weights, pictures):
    data = bytearray((pictures / "more" / "d.bmp").read_bytes())
    data[18:26] = (60000).to_bytes(4, "little") * 2
    (pictures / "big.bmp").write_bytes(data)
    code, out, err = lmcl("score", "--weights", weights, pictures)
    assert code == 1 and len(rows(out)) == 3 and str(pictures / "big.bmp") in err and len(err.splitlines()) == 1


def test_pictures_are_scored_as_one_json_array(lmcl, weights, pictures, tmp_path):
    code, out, err = lmcl("score", "--weights", weights, "--format", "json", pictures)
    table = rows(lmcl("score", "--weights", weights, pictures)[1])
    assert code == 0 and err == "" and pd.DataFrame(json.loads(out)).equals(table)
    (tmp_path / "bad.png").write_text("no picture")
    code, out, err = lmcl("score", "--weights", weights, "--format", "json", tmp_path / "bad.png")
    assert code == 1 and json.loads(out) == [] and "bad.png" in err


def test_overlays_are_drawn_beside_the_scores_even_for_equal_names(lmcl, weights, pictures, tmp_path):
    shutil.copy(pictures / "a.png", pictures / "more" / "a.png")
    (pictures / "broken.png").write_text("no picture")
    code, out, _ = lmcl("score", "--weights", weights, "--overlays", tmp_path / "drawn", pictures)
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert code == 1 and len(rows(out)) == 4
    assert drawn == ["00000_a.png", "00001_b, c.png", "00003_a.png", "00004_d.png"]
    for name in drawn:
        assert np.asarray(Image.open(tmp_path / "drawn" / name).convert("RGB")).std() > 10


def test_names_that_trip_up_a_terminal_or_a_table_stop_nothing(weights, pictures):
    names = ["caf\udce9.png", "cr\r.png", "new\nline.png", "x" * 240 + ".png"]
    for name in names:
        shutil.copy(pictures / "a.png", pictures / name)
    os.mkfifo(pictures / "pipe.png")
    command = [sys.executable, "-m", "lmcl_core", "score", "--weights", str(weights), "--overlays", str(pictures / "o")]
    files = [str(pictures / name) for name in [*names, "pipe.png", "a.png"]]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, *files], capture_output=True, env=environment, timeout=120)
    found = pd.read_csv(io.BytesIO(done.stdout))
    assert done.returncode == 1 and len(found) == 5 and found["score"].nunique() == 1, done.stderr
    assert b"pipe.png: it is no file" in done.stderr and len(done.stderr.splitlines()) == 1
    assert len(list((pictures / "o").iterdir())) == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_full_disk_behind_standard_output_is_told_in_one_line(weights, pictures, form):
    command = [sys.executable, "-m", "lmcl_core", "score", "--weights", str(weights), "--format", form, str(pictures)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert b"disk full while saving the scores on standard output" in done.stderr


def test_a_json_array_is_closed_when_scoring_is_stopped(lmcl, weights, pictures, monkeypatch):
    from lmcl_core import score_files

    def stopped(*args):
        yield score_files.FileScore("a.png", 50.0, 40.0, None, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(score_files, "score_files", stopped)
    code, out, err = lmcl("score", "--weights", weights, "--format", "json", pictures)
    assert code == 130 and len(json.loads(out)) == 1
    assert "epochs" not in err and "rows that were printed are whole" in err


def test_overlays_into_a_file_are_refused_first(refused, weights, pictures):
    said = refused(2, "score", "--weights", weights, "--overlays", pictures / "a.png", pictures)
    assert "--overlays" in said and "name a folder" in said
    assert "is empty: name files" in refused(2, "score", "--weights", weights, "", pictures)
    assert "is empty: name files" in refused(2, "score", "--weights", "", pictures)
    assert "is empty: name files" in refused(2, "score", "--weights", weights, "--out", "", pictures)
    assert "--overlays is empty: name a folder" in refused(2, "score", "--weights", weights, "--overlays", "", pictures)


@pytest.mark.parametrize("place", [".", "drawn", "deep/drawn"])
def test_overlays_among_the_pictures_are_refused_since_they_would_be_scored_next_time(
    refused, weights, pictures, place
):
    said = refused(2, "score", "--weights", weights, "--overlays", pictures / place, pictures)
    assert "name a folder elsewhere" in said and not (pictures / "deep").exists()


def test_a_picture_of_a_format_that_is_not_read_is_told_in_a_folder_too(lmcl, weights, pictures):
    (pictures / "phone.HEIC").write_bytes(bytes(100))
    code, out, err = lmcl("score", "--weights", weights, pictures)
    assert code == 1 and len(rows(out)) == 3 and "phone.HEIC: this format is not read; convert it" in err


def test_a_picture_like_a_ribbon_gets_an_overlay_of_bounded_size(lmcl, weights, tmp_path):
    Image.new("RGB", (40, 6000), (90, 120, 30)).save(tmp_path / "a.png")
    code, _, err = lmcl("score", "--weights", weights, "--overlays", tmp_path / "drawn", tmp_path / "a.png")
    assert code == 0, err
    assert max(Image.open(tmp_path / "drawn" / "00000_a.png").size) < 2000


def test_a_picture_of_a_hundred_megapixels_is_scored_without_a_word(lmcl, weights, tmp_path):
    Image.new("RGB", (10_000, 10_000), (90, 120, 30)).save(tmp_path / "a.jpg")
    code, out, err = lmcl("score", "--weights", weights, tmp_path / "a.jpg")
    assert code == 0 and err == "" and len(rows(out)) == 1


def test_what_archives_leave_behind_is_not_scored(lmcl, weights, pictures):
    (pictures / "__MACOSX").mkdir()
    shutil.copy(pictures / "a.png", pictures / "__MACOSX" / "a.png")
    (pictures / "._a.png").write_bytes(b"\0\5\x16\7")
    shutil.copytree(pictures / "__MACOSX", pictures / ".thumbnails")
    code, out, _ = lmcl("score", "--weights", weights, pictures)
    assert code == 0 and len(rows(out)) == 3


def test_a_folder_without_pictures_is_wrong_use(refused, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in refused(2, "score", "--weights", weights, tmp_path / "empty")


def test_a_batch_of_no_pictures_is_wrong_use_and_nothing_is_printed(lmcl, weights, pictures):
    code, out, err = lmcl("score", "--weights", weights, "--batch-size", "0", pictures)
    assert code == 2 and out == "" and "batch_size is 0" in err


def test_missing_weights_are_wrong_use(refused, tmp_path):
    assert str(tmp_path / "no") in refused(2, "score", "--weights", tmp_path / "no", "a.png")


def test_weights_of_another_program_are_wrong_use_in_two_lines(refused, weights, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    assert str(path) in refused(2, "score", "--weights", path, "a.png")


def test_a_damaged_label_file_is_told_in_two_lines(refused, livec):
    path = livec / "ChallengeDB_release" / "Data" / "AllMOS_release.mat"
    path.write_bytes(b"\n".join([b"<html>"] * 40))
    assert str(path) in refused(2, "train", "--benchmark", "livec", "--data-root", livec)
    savemat(path, {"other": np.zeros(3)})
    assert str(path) in refused(2, "train", "--benchmark", "livec", "--data-root", livec)


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "lmcl_core", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Usage: lmcl" in done.stdout and done.stderr == ""
    done = subprocess.run(
        [sys.executable, "-m", "lmcl_core", "verify", "livek"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_importing_the_package_is_quick_and_brings_no_torch():
    done = python(
        "import time; start = time.perf_counter(); import sys, lmcl_core, lmcl_core.cli;"
        "took = time.perf_counter() - start;"
        "print(took, *[m for m in ('torch', 'timm', 'lightning', 'matplotlib') if m in sys.modules])"
    )
    took, *heavy = done.stdout.split()
    assert float(took) < 3 and heavy == [], done


def test_help_brings_no_torch():
    done = python(
        "import sys; from lmcl_core.cli import main\n"
        "try: main(['train', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_the_default_model_is_built_without_a_network(tmp_path):
    code = (
        "import socket, sys\n"
        "def blocked(*args): raise AssertionError('the network was used')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = blocked\n"
        "from lmcl_core import QualityModel\n"
        "model = QualityModel('tf_efficientnet_lite0')\n"
        "print(model.pool is not None)\n"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout == "True\n" and not list(tmp_path.iterdir()), done.stderr


def test_a_dry_run_prints_plan_time_and_room_and_runs_nothing(lmcl, livec, tmp_path):
    tiny = [f"--set={change}" for change in ("crop_size=32", "crops=2", "pretrained=false", "epochs=1")]
    options = ["--benchmark", "livec,demo", "--data-root", livec, "--splits", "2", "--runs-dir", tmp_path / "runs"]
    code, out, err = lmcl("reproduce", *options, "--dry-run", *tiny)
    assert code == 0 and err == "" and not (tmp_path / "runs").exists()
    rows = {line.split()[0]: line.split() for line in out.splitlines()[1:3]}
    assert rows["livec"][1:4] == ["12", "4", "0"] and rows["demo"][1:4] == ["360", "4", "0"]
    assert "workers is -1" in lmcl("reproduce", "--workers=-1", "--dry-run")[2]
    assert re.search(r"in all 8 runs, \d+ minutes of training on one worker, \d+\.\d GB", out)


def test_a_set_that_only_its_owners_hand_out_says_where_to_ask(lmcl, tmp_path):
    code, out, err = lmcl("download", "livec", tmp_path)
    assert code == 2 and "live.ece.utexas.edu" in out and "ask at https://live.ece.utexas.edu" in err
    assert list(tmp_path.iterdir()) == []


def test_terms_that_are_not_accepted_download_nothing(lmcl, tmp_path, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda question: False)
    code, out, err = lmcl("download", "kadid10k", tmp_path)
    assert code == 2 and "terms" in err and "KADID-10k" in out and list(tmp_path.iterdir()) == []


def test_the_official_split_has_a_run_folder_of_its_own(tmp_path):
    assert parse_split("official") == "official" and parse_split("7") == 7
    assert run_folder(tmp_path, "koniq10k", "lmcl", "official").name == "split-official"


def test_a_question_nobody_answers_is_wrong_use_and_names_the_way_out(lmcl, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = lmcl("download", "kadid10k", tmp_path)
    assert code == 2 and "--yes" in err and "unexpected" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, said",
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "add --out FOLDER"),
        (["--workers", "2"], "add --out FOLDER"),
        (["--out", "scores", "--overlays", "overlays"], "--overlays"),
        (["--out", "scores", "--format", "json"], "--format"),
        (["s3://bucket/pictures"], "s3://bucket/pictures is an address"),
    ],
)
def test_options_of_scoring_that_do_not_go_together_are_named(refused, pictures, options, said):
    assert said in refused(2, "score", pictures, *options)


def test_scoring_on_a_cluster_tells_what_it_did_and_where_the_faults_are(lmcl, pictures, monkeypatch):
    asked = []

    def score_many(paths, out, weights, **options):
        asked.append((list(paths), out, weights, options["workers"], options["scheduler"]))
        return 3, 1

    monkeypatch.setattr("lmcl_core.score_many.score_many", score_many)
    code, out, err = lmcl("score", pictures, "s3://bucket", "--out", "scores", "--workers", 2)
    assert code == 1 and "3 pictures scored, 1 could not be read" in out and "column fault" in err
    assert asked == [([str(pictures), "s3://bucket"], "scores", "livec", 2, "")]


def test_bench_prints_its_table_and_leaves_tables_and_pictures(lmcl, tmp_path, sound, monkeypatch):
    monkeypatch.setattr("lmcl_core.bench.LOSS_SIZES", (16,))
    monkeypatch.setattr("lmcl_core.peak.peak_megabytes", lambda *work: 1.0)
    options = ["--parts", "loss,store", "--repeats", 1, "--images", 8, "--figures-dir", tmp_path]
    code, out, err = lmcl("bench", "--benchmark", "livec", "--data-root", sound, *options)
    assert code == 0 and err == "" and "ours v1" in out and "decoding alone" in out and "CPU threads" in out
    made = tmp_path / "bench" / "livec"
    assert {path.name for path in made.iterdir()} == {
        "repetitions_store-loss.csv",
        *(f"costs_store-loss.{kind}" for kind in ("csv", "png", "pdf")),
    }
    told = pd.read_csv(made / "repetitions_store-loss.csv")
    assert (
        set(told["part"]) == {"store", "loss"}
        and (told["benchmark"] == "livec").all()
        and (told["images_at_most"] == 8).all()
    )


def test_bench_keeps_the_parts_that_were_measured_when_it_is_stopped(lmcl, tmp_path, sound, monkeypatch):
    def stopped(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmcl_core.bench._loss", stopped)
    options = ["--parts", "loss,store", "--repeats", 1, "--images", 8, "--figures-dir", tmp_path]
    code, _, err = lmcl("bench", "--benchmark", "livec", "--data-root", sound, *options)
    assert code == 130 and "measured whole are kept" in err
    made = tmp_path / "bench" / "livec" / "repetitions_store-loss_unfinished.csv"
    assert set(pd.read_csv(made)["part"]) == {"store"}
    monkeypatch.setattr("lmcl_core.bench._loss", lambda order, *rest: pd.DataFrame())
    assert lmcl("bench", "--benchmark", "livec", "--data-root", sound, *options)[0] == 0
    assert not made.exists() and (made.parent / "repetitions_store-loss.csv").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--parts", "store", "--against", "x"], "--against means nothing to store: add training"),
        (["--parts", "loss", "--set", "crops=2"], "--set means nothing to loss: add growth or store or training"),
        (["--benchmark", "livecc"], "did you mean 'livec'"),
    ],
)
def test_options_of_bench_without_a_use_are_refused(refused, options, said):
    assert said in refused(2, "bench", *options)


def test_bench_finds_out_first_whether_its_folder_can_be_written(lmcl, tmp_path, monkeypatch):
    monkeypatch.setattr("lmcl_core.bench.bench", None)
    (tmp_path / "file").touch()
    code, _, err = lmcl("bench", "--parts", "store", "--figures-dir", tmp_path / "file" / "figures")
    assert code == 1 and "cannot save" in err


def test_an_empty_folder_beside_a_full_one_is_told(refused, weights, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in refused(2, "score", "--weights", weights, pictures, tmp_path / "empty")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train"], "finished epochs are kept"),
        (["score", "a.png"], "the other pictures are not scored"),
        (["score", "a.png", "--out=scores"], "finished parts are kept"),
        (["bench"], "measured whole are kept"),
        (["verify", "livec"], ""),
    ],
)
def test_who_stops_a_command_is_told_what_of_it_is_kept(arguments, said):
    assert said in _kept(arguments) and bool(_kept(arguments)) is bool(said)


def test_an_unknown_part_of_bench_is_named(refused):
    assert "'los'" in refused(2, "bench", "--parts", "los")
