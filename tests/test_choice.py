"""One benchmark, several, or all that are there."""

from __future__ import annotations

import pytest

from lmcl_core import InputError
from lmcl_core.choice import choose_benchmarks


def test_names_keep_their_order_and_the_demo_needs_no_folder(livec):
    tables, missing = choose_benchmarks("livec, demo", livec)
    assert list(tables) == ["livec", "demo"] and missing == {}
    assert len(tables["livec"]) == 12 and tables["demo"].attrs["benchmark"] == "demo"


def test_a_folder_named_for_the_demo_alone_is_read(tmp_path):
    with pytest.raises(InputError, match="missing_folder"):
        choose_benchmarks("demo", tmp_path)


def test_all_reads_what_is_there_and_tells_why_the_rest_is_not(livec):
    tables, missing = choose_benchmarks("all", livec)
    assert list(tables) == ["livec"]
    assert set(missing) == {"live", "csiq", "tid2013", "kadid10k", "koniq10k", "livefb", "spaq"}
    assert all(reason.startswith("missing_folder") for reason in missing.values())


def test_a_benchmark_asked_for_by_name_must_be_there(livec):
    with pytest.raises(InputError, match="missing_folder"):
        choose_benchmarks("livec,kadid10k", livec)


@pytest.mark.parametrize(
    "names, root, message",
    [
        ("", None, "write one name"),
        ("demo,demo", None, "different ones"),
        ("livc", None, "did you mean 'livec'"),
        ("all", None, "needs the folder that holds them"),
        ("all", "empty", "no benchmark can be read"),
    ],
)
def test_what_cannot_be_chosen_is_an_error(tmp_path, names, root, message):
    with pytest.raises(InputError, match=message):
        choose_benchmarks(names, root and tmp_path)
