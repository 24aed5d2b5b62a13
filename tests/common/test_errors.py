"""Messages of errors name the thing and the fix."""

from __future__ import annotations

import errno


from lmcl_core.common.errors import counted, first_line, save_failed, unknown


def test_an_unknown_name_gets_the_nearest_known_one_or_a_short_list():
    assert str(unknown("benchmark", "LIVECC", ["livec", "spaq"])) == "unknown benchmark 'LIVECC': did you mean 'livec'?"
    message = str(unknown("number", "x", [f"{n:02d}" for n in range(30)]))
    assert message.startswith("unknown number 'x': choose one of: 00, 01") and message.endswith("19 and 10 more")


def test_a_failed_write_says_what_to_do():
    for number, fix in [
        (errno.ENOSPC, "free some space"),
        (errno.ENOTDIR, "is in the way"),
        (errno.EACCES, "check the folder"),
    ]:
        message = str(save_failed("a.csv", OSError(number, "reason")))
        assert fix in message and "a.csv" in message


def test_numbers_and_first_lines_are_worded():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert first_line(ValueError("\nfirst:\nsecond")) == "first" and first_line(ValueError()) == "ValueError"
