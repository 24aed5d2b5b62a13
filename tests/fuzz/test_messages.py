"""Whatever a name holds, its error is one or two lines for the user."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import HOSTILE, examples, tried

import lmcl_core as lmcl
from lmcl_core import InputError, RunError
from lmcl_core.cli import main
from lmcl_core.common.command import parse_changes, parse_split
from lmcl_core.data import download
from lmcl_core.data.images import decode

CALLS = dict(
    benchmark=lmcl.load_benchmark,
    root=lambda name: lmcl.load_benchmark("livec", name),
    verify=lambda name: lmcl.verify_benchmark(name, None),
    several=lmcl.choose_benchmarks,
    picture=decode,
    weights=lmcl.load,
    variant=lambda name: lmcl.Recipe.for_benchmark("livec", name),
    network=lambda name: lmcl.Recipe.for_benchmark("livec", network=name),
    field=lambda name: lmcl.Recipe.from_dict({name: 1}),
    value=lambda name: lmcl.Recipe.from_dict({"lr": name}),
    changes=lambda name: parse_changes([name]),
    split=parse_split,
    download=download.terms,
)
COMMANDS = ["verify {}", "verify livec {}", "score {}.png", "score x.png --weights={}", "train --recipe={}", "rerun {}"]
COMMANDS += ["train --network={}", "train --set={}", "train --split=-{}", "download {} x", "compare --benchmark={}"]
NAMES = st.one_of(
    st.sampled_from([name for name in HOSTILE if name.strip()]),
    st.text(st.one_of(st.characters(), st.sampled_from("\n\r\0\x1b{}%\udc80\u2028/")), min_size=1, max_size=12),
)


def is_short(text: str) -> bool:
    return 0 < len(text.splitlines()) <= 2 and "Traceback" not in text and "unexpected" not in text


@examples(1)
@given(st.sampled_from(sorted(CALLS)), NAMES)
@example("root", "9" * 5000)
@example("picture", "x\0y")
@example("picture", "\ud800")
@example("picture", "x\r\ny.png")
def test_an_error_has_at_most_two_lines(call, name):
    tried["messages"] += 1
    try:
        CALLS[call](name)
    except (InputError, RunError) as error:
        assert is_short(str(error)), str(error)


@examples(1)
@given(command=st.sampled_from(COMMANDS), name=NAMES.filter(lambda name: "\0" not in name))
@example(command="verify livec {}", name="\r")
def test_a_command_says_so_in_one_line(tmp_path_factory, command, name):
    tried["messages"] += 1
    arguments = [word.format(name) if "{}" in word else word for word in command.split(" ")]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.chdir(tmp_path_factory.getbasetemp())
        patch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    assert ended.value.code in (0, 1, 2) and (ended.value.code == 0 or is_short(said.getvalue())), said.getvalue()
