"""Exit codes and messages of the command lines."""

from __future__ import annotations

import pytest

from lmcl_core import Recipe
from lmcl_core.common.command import exit_codes, parse_changes
from lmcl_core.common.errors import InputError, RunError


@pytest.mark.parametrize(
    "error, code, message",
    [
        (InputError("unknown name:\nchoose another"), 2, r"unknown name:\nchoose another"),
        (RunError("disk full"), 1, "disk full"),
        (OSError(36, "File name too long", "a.csv"), 1, "cannot use a.csv: File name too long"),
        (
            UnicodeEncodeError("utf-8", "a\udcff.png", 1, 2, "surrogates"),
            2,
            r"'a\udcff.png' holds characters that are no",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_line(error, code, message, capsys):
    with pytest.raises(SystemExit) as ended, exit_codes("bundle"):
        raise error
    stderr = capsys.readouterr().err
    assert ended.value.code == code and stderr.startswith(f"bundle: {message}") and len(stderr.splitlines()) == 1


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, '{"a":' * 3000, "[" * 11])
def test_a_deeply_nested_change_is_refused(value):
    with pytest.raises(InputError, match="is nested too deeply") as refused:
        parse_changes([f"scales={value}"])
    assert len(str(refused.value)) < 200
    with pytest.raises(InputError, match="are not a JSON object"):
        Recipe.parse_changes(value)


def test_a_field_that_is_set_twice_is_refused():
    with pytest.raises(InputError, match="--set epochs is given twice"):
        parse_changes(["epochs=1", "lr=0.1", "epochs=2"])


def test_an_error_that_the_user_cannot_fix_is_passed_on():
    with pytest.raises(OSError), exit_codes("bundle"):
        raise OSError("of an unknown kind")
