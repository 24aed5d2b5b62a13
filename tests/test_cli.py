"""The command line: exit codes, one-line errors, and output."""

from __future__ import annotations

import dataclasses
import io
import json
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

from lmcl_core import BENCHMARKS, Recipe, load_benchmark, make_split, split_hash
from lmcl_core.cli import main
from lmcl_core.common.command import parse_changes, parse_split


@pytest.fixture
def lmcl(capsys):
    """Run the command line: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


@pytest.fixture
def refused(lmcl):
    """Run a command that must fail with a code, and return its line."""

    def run(code: int, *arguments: object) -> str:
        found, out, err = lmcl(*arguments)
        assert found == code, err
        assert out == "" and len(err.splitlines()) == 1 and "Traceback" not in err, err
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
    """Arguments of each call of `train`, which does nothing."""
    calls = []

    def train(table, split, recipe, folder, device, resume, log):
        calls.append(dict(table=table, split=split, recipe=recipe, folder=folder, device=device, resume=resume))
        return dict(srcc=0.5, plcc=0.25)

    monkeypatch.setattr("lmcl_core.training.train", train)
    return calls


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of three images, one of them in a subfolder."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b, c.JPG", "more/d.bmp"]):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "JPEG" if name.endswith("JPG") else None)
    return folder


def rows(out: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(out))


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_each_has_its_own(lmcl):
    code, out, err = lmcl("--help")
    assert code == 0 and err == "" and "--debug" in out
    for command in ("reproduce", "compare", "rerun", "verify", "download", "train", "score", "bench", "doctor"):
        assert command in out
        code, own, _ = lmcl(command, "--help")
        assert code == 0 and f"lmcl {command}" in own


def test_without_a_command_the_help_is_printed_with_exit_code_2(lmcl):
    code, out, err = lmcl()
    assert code == 2 and "Usage: lmcl" in out + err
    assert not err.startswith("lmcl: Usage") and "Try `lmcl --help`" not in err


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["nosuch"], "nosuch"),
        (["verify", "livec", "--nosuch"], "--nosuch"),
        (["train", "--split", "²"], "--split"),
        (["train", "--split", "9" * 5000], "nine digits at most"),
        (["train", "--runs-dir", __file__], "is a file"),
        (["train", "--benchmark", "livec"], "--data-root"),
        (["train", "--recipe", "no-manifolds"], "did you mean 'no-manifold'"),
        (["reproduce", "--benchmark", "demo,demo"], "different names"),
        (["score", "a.png", "--format", "xml"], "'csv', 'json'"),
        (["bench", "--parts", ","], "unknown part '': choose one of"),
        (["reproduce", "--benchmark", "all", "--data-root", "/nowhere"], "/nowhere is not an existing folder"),
        (["reproduce", "--scheduler", ""], "--scheduler is empty: give it a value"),
        (["bench", "--parts", "store", "--against", "x"], "training"),
        (["reproduce", "--set", "epoch=3"], "unknown recipe field 'epoch': did you mean 'epochs'?"),
        (["train", "--set", "epochs"], "write FIELD=VALUE"),
        (["train", "--recipe", "no-manifold", "--set", "manifold_weight=0.3"], "defines the variant 'no-manifold'"),
    ],
)
def test_wrong_use_is_exit_2_and_names_the_argument_before_the_demo_is_built(refused, monkeypatch, arguments, named):
    monkeypatch.setattr("lmcl_core.data.demo.build_demo", lambda *args: pytest.fail("the demo was asked for first"))
    assert named in refused(2, *arguments)


def test_a_file_name_that_begins_with_a_dash_is_answered_with_the_fix(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-dash.png").touch()
    assert "No such option: -d. For the file, write ./-dash.png." in refused(2, "score", "-dash.png")
    assert "Try `lmcl score --help`." in refused(2, "score", "-other.png")


def test_changes_are_json_or_strings_and_a_name_is_always_a_string():
    given = ["epochs=3", "variant=v2", "scales=[1, 2.5]", "flip=false", "quality_sigma=null", "name=2024"]
    values = dict(epochs=3, variant="v2", scales=[1, 2.5], flip=False, quality_sigma=None, name="2024")
    assert parse_changes(given) == values
    assert parse_changes(None) == {} and parse_split("official") == "official" and parse_split("7") == 7


def test_train_passes_its_options_on(lmcl, livec, trained, tmp_path):
    options = ["--recipe", "no-manifold", "--device", "cpu", "--set", "epochs=2", "--set", "name=mine", "--overwrite"]
    places = ["--benchmark", "livec", "--data-root", livec, "--runs-dir", tmp_path / "runs"]
    code, out, _ = lmcl("train", *places, "--split", 3, *options)
    asked = trained[0]
    assert code == 0 and "SRCC 0.5000" in out and "PLCC 0.2500" in out
    assert asked["folder"] == tmp_path / "runs" / "livec" / "mine" / "split-03" and str(asked["folder"]) in out
    assert asked["recipe"] == Recipe.for_benchmark("livec", "no-manifold", epochs=2, name="mine")
    assert asked["split"].index == 3 and asked["device"] == "cpu" and asked["resume"] is False


def test_own_data_are_verified_and_trained_by_their_path(lmcl, refused, trained, own, tmp_path):
    code, out, _ = lmcl("verify", own)
    assert code == 0 and "12 images, no faults" in out and "opinion of three raters" in out and "split official" in out
    code, out, err = lmcl("train", "--benchmark", own, "--runs-dir", tmp_path / "runs")
    assert code == 0, err
    assert trained[0]["folder"] == tmp_path / "runs" / "mine" / "lmcl" / "split-00"
    assert lmcl("train", "--benchmark", "mine", "--data-root", own.parent, "--runs-dir", tmp_path / "runs")[0] == 0
    assert trained[0]["recipe"] == trained[1]["recipe"] and trained[0]["recipe"].crop_size == 32
    (own / "benchmark.toml").write_text("name = 3\n")
    assert "name is 3: write for example" in refused(2, "verify", own)


def test_a_validation_run_holds_the_test_part_out_and_has_its_own_folder(lmcl, livec, trained, tmp_path):
    arguments = ["--benchmark", "livec", "--data-root", livec, "--runs-dir", tmp_path / "runs"]
    code, out, _ = lmcl("train", *arguments, "--split", "1", "--validation")
    assert lmcl("train", *arguments, "--split", "1")[0] == code == 0 and "validation SRCC" in out
    chosen, numbered = (asked["split"] for asked in trained)
    assert trained[0]["folder"].name == "split-01-val" and trained[1]["folder"].name == "split-01"
    assert len(chosen.test) and not set(numbered.test) & {*chosen.train, *chosen.test}


def test_an_unexpected_error_is_one_line_that_points_to_debug(refused, sound, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("one\ntwo\nthree\nfour")

    monkeypatch.setattr("lmcl_core.data.verify.verify_benchmark", fail)
    message = refused(1, "verify", "livec", sound)
    assert "ZeroDivisionError" in message and "--debug" in message


@pytest.mark.parametrize("closed, code", [(">&-", 2), ("2>&-", 0), (">&- 2>&-", 2)])
def test_closed_streams_cause_no_traceback(closed, code):
    done = subprocess.run(
        f"{sys.executable} -m lmcl_core --help {closed}", shell=True, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code and done.stdout.startswith("Usage") == (code == 0)
    assert done.stderr.startswith("lmcl: standard output is closed") == (closed == ">&-"), done.stderr


@pytest.mark.parametrize(
    "arguments, work, message",
    [
        (["train", "--benchmark", "livec", "--data-root", "LIVEC"], "training.train", "finished epochs are kept"),
        (["score", Path(__file__).parent], "scoring.output.print_scores", "the other images are not scored"),
        (["score", "a.png", "--out=scores"], "batch.cluster.connect", "finished chunks are kept"),
        (["bench"], "bench.measure.bench", "complete parts are kept"),
        (["verify", "demo"], "data.verify.verify_benchmark", "stopped\n"),
    ],
)
def test_a_stopped_command_exits_with_130_and_says_what_is_kept(lmcl, livec, monkeypatch, arguments, work, message):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"lmcl_core.{work}", stop)
    code, _, err = lmcl(*(livec if argument == "LIVEC" else argument for argument in arguments))
    assert code == 130 and err.startswith("lmcl: stopped") and message in err and len(err.splitlines()) == 1


def test_sigterm_stops_like_ctrl_c():
    code = (
        "import os, signal, sys; import lmcl_core.data.verify as v\n"
        "v.verify_benchmark = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from lmcl_core.cli import main; main(['verify', 'demo'])"
    )
    done = python(code)
    assert done.returncode == 130 and done.stderr == "lmcl: stopped\n"


def test_debug_prints_the_traceback_wherever_it_stands(lmcl):
    for arguments in (["--debug", "verify", "nosuch"], ["verify", "nosuch", "--debug"]):
        code, _, err = lmcl(*arguments)
        assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("lmcl: unknown benchmark")


def test_a_sound_folder_exits_with_0_and_prints_ten_split_hashes(lmcl, sound):
    code, out, err = lmcl("verify", "livec", sound)
    assert code == 0 and err == "" and out.startswith("livec: 12 images, no faults; labels from ")
    assert "AllMOS_release.mat: people's mean opinion score, 0 to 100\n" in out
    found = re.findall(r"^split (\d): ([0-9a-f]{12})  10 train, 2 test, 0 contents shared$", out, re.M)
    table = load_benchmark("livec", sound)
    assert found == [(str(index), split_hash(table, make_split(table, index))) for index in range(10)]


def test_a_faulty_folder_exits_with_1_and_one_line_per_fault(lmcl, sound):
    images = sound / "ChallengeDB_release" / "Images"
    (images / "5.bmp").unlink()
    (images / "6.bmp").write_bytes(b"")
    code, out, err = lmcl("verify", "livec", sound)
    lines = err.splitlines()
    assert code == 1 and out == "" and len(lines) == 3
    assert lines[0].startswith("missing_image: ") and "5.bmp: " in lines[0]
    assert lines[1].startswith("unreadable_image: ") and "6.bmp: " in lines[1]
    assert lines[2] == "livec: 2 faults"
    for path in images.glob("*.*"):
        path.unlink()
    assert lmcl("verify", "livec", sound)[2].splitlines()[-2:] == ["missing_image: 2 more", "livec: 12 faults"]


def test_images_are_scored_as_csv_or_as_one_json_array(lmcl, weights, images):
    code, out, err = lmcl("score", "--weights", weights.parent, images)
    found = rows(out)
    assert code == 0 and err == "" and list(found.columns) == ["image", "score", "percentile"]
    assert list(found["image"]) == [str(images / name) for name in ("a.png", "b, c.JPG", "more/d.bmp")]
    assert np.isfinite(found["score"]).all() and found["percentile"].between(0, 100).all()
    code, out, err = lmcl("score", "--weights", weights, "--format", "json", images)
    assert code == 0 and err == "" and pd.DataFrame(json.loads(out)).equals(found)


def test_a_name_that_is_not_utf_8_is_exact_in_json_and_escaped_in_csv(lmcl, weights, images):
    path = images / "caf\udce9\r.png"
    shutil.copy(images / "a.png", path)
    code, out, _ = lmcl("score", "--weights", weights, "--format", "json", path)
    [row] = json.loads(out)
    assert code == 0 and row["image"] == str(path) and Path(row["image"]).is_file()
    code, out, _ = lmcl("score", "--weights", weights, path)
    assert code == 0 and rows(out)["image"].tolist() == [str(images / r"caf\udce9\r.png")]


@pytest.mark.slow
def test_a_terminal_gets_the_meaning_of_a_score_and_a_table_and_a_pipe_only_csv(weights, images):
    pty = pytest.importorskip("pty")
    (images / "text.jpg").write_text("no image")
    command = [sys.executable, "-m", "lmcl_core", "score", "--weights", str(weights), str(images)]
    ours, theirs = pty.openpty()
    pytest.importorskip("termios").tcsetwinsize(theirs, (24, 100))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=120)
    seen = os.read(ours, 100_000).decode()
    assert done.stdout.decode().startswith("image,score,percentile\n") and len(rows(done.stdout.decode())) == 3
    assert "higher is better" in seen and "trained on LIVEC" in seen and "scoring:" in seen and "text.jpg" in seen
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=120)
    lines = os.read(ours, 100_000).decode().splitlines()
    assert lines[0] == " score  percentile  image" and lines[1].endswith(str(images / "a.png")) and len(lines) == 4
    assert done.stderr.decode().startswith("score: ") and "\r" not in done.stderr.decode()


def test_verify_writes_a_list_of_hashes_and_compares_with_it(lmcl, own, tmp_path):
    folder, good = own, tmp_path / "good.txt"
    code, out, err = lmcl("verify", folder, "--deep", "--write-hashes", good)
    assert code == 0 and len(good.read_text().splitlines()) == 12 and "--hashes" in out.splitlines()[-1], err
    assert lmcl("verify", folder, "--hashes", good)[0] == 0
    path = folder / "images" / "3.png"
    shutil.copy(folder / "images" / "4.png", path)
    code, out, err = lmcl("verify", folder, "--deep", "--hashes", good)
    assert code == 1 and err.startswith(f"unreadable_image: {path}: its SHA-256 differs") and "1 fault" in err
    assert lmcl("verify", folder, "--write-hashes", good)[0] == 2 == lmcl("verify", folder, "--hashes", folder)[0]


def test_unreadable_images_are_listed_with_exit_code_1_and_the_others_scored(lmcl, weights, images):
    bmp = bytearray((images / "more" / "d.bmp").read_bytes())
    bmp[18:26] = (60000).to_bytes(4, "little") * 2
    (images / "huge.bmp").write_bytes(bmp)
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:500])
    (images / "text.jpg").write_text("no image")
    (images / "phone.HEIC").write_bytes(bytes(100))
    Image.fromarray(np.random.default_rng(0).random((40, 40), np.float32)).save(images / "float.tif")
    unreadable = ["huge.bmp", "cut.png", "text.jpg", "phone.HEIC", "float.tif", "missing.png", "long" * 99]
    code, out, err = lmcl("score", "--weights", weights, images, images / "missing.png", images / ("long" * 99))
    assert code == 1 and len(rows(out)) == 3 and len(err.splitlines()) == len(unreadable) + 1
    assert err.startswith(f"no file or folder {images / 'missing.png'}: check the path\n")
    assert err.endswith("\n3 images scored, 7 could not be read\n")
    for name in unreadable:
        assert sum(str(images / name) in line for line in err.splitlines()) == 1
    code, out, err = lmcl("score", "--weights", weights, "--format", "json", images / "text.jpg")
    assert code == 1 and json.loads(out) == [] and "text.jpg" in err


@pytest.mark.slow
def test_unusual_file_names_are_scored(weights, images):
    names = ["caf\udce9.png", "cr\r.png", "new\nline.png", "x" * 240 + ".png"]
    for name in names:
        shutil.copy(images / "a.png", images / name)
    os.mkfifo(images / "pipe.png")
    command = [sys.executable, "-m", "lmcl_core", "score", "--weights", str(weights), "--overlays", str(images / "o")]
    files = [str(images / name) for name in [*names, "pipe.png", "a.png"]]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, *files], capture_output=True, env=environment, timeout=120)
    found = pd.read_csv(io.BytesIO(done.stdout))
    assert done.returncode == 1 and len(found) == 5 and found["score"].nunique() == 1, done.stderr
    assert b"pipe.png: it is not a file" in done.stderr and len(done.stderr.splitlines()) == 2
    assert len(list((images / "o").iterdir())) == 5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_full_disk_behind_standard_output_is_reported_in_one_line(weights, images, form):
    command = [sys.executable, "-m", "lmcl_core", "score", "--weights", str(weights), "--format", form, str(images)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert b"disk full while saving the scores on standard output" in done.stderr


def test_a_json_array_is_closed_when_scoring_is_stopped(lmcl, weights, images, monkeypatch):
    from lmcl_core.scoring import output
    from lmcl_core.scoring.files import FileScore

    def stopped(*args):
        yield FileScore("a.png", 50.0, 40.0, None, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "score_files", stopped)
    code, out, err = lmcl("score", "--weights", weights, "--format", "json", images)
    assert code == 130 and len(json.loads(out)) == 1
    assert "epochs" not in err and "printed rows are complete" in err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "need --out FOLDER"),
        (["--out", "scores", "--overlays", "overlays"], "--overlays"),
        (["s3://bucket/images"], "s3://bucket/images is an address"),
        (["--out", ""], "--out is empty"),
        (["--overlays", "IMAGES/a.png"], "a.png, a file: name a folder"),
        (["--overlays", "IMAGES/deep/drawn"], "name a folder elsewhere"),
        (["EMPTY"], "no images in"),
    ],
)
def test_wrong_use_of_score_is_named(refused, images, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    options = [option.replace("IMAGES", str(images)).replace("EMPTY", str(tmp_path / "empty")) for option in options]
    assert message in refused(2, "score", images, *options)
    assert not (images / "deep").exists()


WRONG = """
reproduce --benchmark nosuch; reproduce --splits 0; reproduce --device nosuch; reproduce --set epoch=3
reproduce --workers -1; reproduce --scheduler nosuch
reproduce --dry-run --benchmark nosuch; reproduce --dry-run --splits 0; reproduce --dry-run --device nosuch
verify nosuch; verify livec; verify demo --show -1; download nosuch DIR; download livec DIR
train --benchmark nosuch; train --benchmark livec --data-root DIR; train --split x; train --recipe nosuch
train --runs-dir FILE; train --device nosuch; train --set lr=x
 score DIR; score nosuch.png; score a.png --format xml; score a.png --weights nosuch; score a.png --overlays FILE
 score a.png --batch-size 0; score a.png --batch-size 9223372036854775808; score a.png --device nosuch
 score a.png --workers 2
score DIR --out new; score a.png --out FILE; score a.png --out new --workers -1
score a.png --out new --scheduler nosuch; score a.png --out new --device nosuch
rerun DIR; rerun FILE; rerun DIR --device nosuch; reproduce --workers 100000000000000000000
bench --benchmark nosuch; bench --parts los; bench --parts store --against x; bench --against DIR; bench --repeats 0
bench --images 1; bench --repeats 9223372036854775808; bench --figures-dir FILE; bench --device nosuch
bench --set epoch=1
"""


@pytest.mark.slow
def test_wrong_use_of_no_command_waits_for_torch(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").touch()
    text = WRONG.replace("DIR", str(tmp_path / "empty")).replace("FILE", str(tmp_path / "a_file"))
    code = (
        "import contextlib, sys; from lmcl_core.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    with contextlib.suppress(SystemExit): main(line.split()); assert False\n"
        "    print(f'{line}:', *{'torch', 'matplotlib', 'distributed'} & set(sys.modules))\n"
    )
    commands = [line.strip() for line in re.split("[;\n]", text.strip())]
    done = python(code, *commands)
    assert done.returncode == 0 and not re.search(": (torch|matplotlib|distributed)", done.stdout), done.stdout
    assert len(done.stderr.splitlines()) == len(commands) + 1 > 40, done.stderr  # one counts the images


def test_scores_from_a_cluster_are_counted_and_faults_exit_with_1(lmcl, images, monkeypatch):
    calls = []

    def score_many(paths, out, weights, **options):
        calls.append((list(paths), out, weights, options["cluster"]))
        return 3, 1

    monkeypatch.setattr("lmcl_core.batch.cluster.connect", lambda *asked: asked)
    monkeypatch.setattr("lmcl_core.scoring.many.score_many", score_many)
    code, out, err = lmcl("score", images, "s3://bucket", "--out", "scores", "--workers", 2)
    assert code == 1 and "3 images scored, 1 could not be read" in out and "column fault" in err
    assert calls == [([str(images), "s3://bucket"], "scores", "general", ("", 2))]


@pytest.mark.slow
def test_a_shell_completes_names_without_torch():
    code = (
        "import sys; from lmcl_core.cli import main\n"
        "try: main([])\n"
        "finally: assert not {'torch', 'matplotlib', 'distributed'} & set(sys.modules)"
    )
    for words, names in (
        ("lmcl train --benchmark li", ["live", "livec", "livefb"]),
        ("lmcl train --recipe no-m", ["no-manifold"]),
        ("lmcl score --weights live", ["livec"]),
    ):
        asked = dict(_LMCL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.split() == names, done.stderr


def test_a_dry_run_prints_runs_time_and_disk_space_and_runs_nothing(lmcl, livec, tmp_path):
    tiny = [f"--set={change}" for change in ("crop_size=32", "crops=2", "pretrained=false", "epochs=1")]
    options = ["--benchmark", "livec", "--data-root", livec, "--splits", "2", "--runs-dir", tmp_path / "runs"]
    code, out, err = lmcl("reproduce", *options, "--dry-run", *tiny)
    assert code == 0 and err == "" and not (tmp_path / "runs").exists()
    assert out.splitlines()[1].split()[:4] == ["livec", "12", "4", "0"]
    assert re.search(r"in all 4 runs, \d+ minutes of training on one worker, \d+\.\d GB", out)


def test_a_question_without_an_answer_is_wrong_use_and_names_the_option(lmcl, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = lmcl("download", "kadid10k", tmp_path)
    assert code == 2 and "--yes" in err and "unexpected" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bench_prints_its_tables_and_writes_them_with_figures(lmcl, tmp_path, sound, monkeypatch):
    monkeypatch.setattr("lmcl_core.bench.measure.LOSS_SIZES", (16,))
    monkeypatch.setattr("lmcl_core.bench.measure._peak_in_process", lambda make: 1.0)
    options = ["--parts", "loss,store", "--repeats", 1, "--images", 8, "--figures-dir", tmp_path]
    code, out, err = lmcl("bench", "--benchmark", "livec", "--data-root", sound, *options)
    assert code == 0 and err == "" and "ours v1" in out and "decoding alone" in out and "CPU threads" in out
    made = tmp_path / "bench" / "livec"
    costs = [f"costs_store-loss.{kind}" for kind in ("csv", "pdf", "png")]
    assert sorted(path.name for path in made.iterdir()) == [*costs, "repetitions_store-loss.csv"]
    table = pd.read_csv(made / "repetitions_store-loss.csv")
    assert set(table["part"]) == {"store", "loss"} and set(table["benchmark"]) == {"livec"}
    assert set(table["images_at_most"]) == {8}
