"""The frame of the module commands; what `lmcl` itself makes of its options is tested with the command line."""

from __future__ import annotations

import pytest

from lmcl_core import bundle, judges, ledger, records
from lmcl_core.arguments import module_command
from lmcl_core.errors import InputError, RunError


@pytest.mark.parametrize("module", [bundle, judges, ledger, records])
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["livec", "--help"]])
def test_help_is_shown_and_is_no_error(module, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    told = capsys.readouterr()
    assert ended.value.code == 0 and not told.err
    assert told.out.startswith(f"use: python -m {module.__name__} ") and len(told.out.splitlines()) == 1


@pytest.mark.parametrize("error, code", [(InputError("typo"), 2), (RunError("disk full"), 1)])
def test_an_error_is_one_line_and_its_kind_the_exit_code(error, code, capsys):
    with pytest.raises(SystemExit) as ended, module_command("bundle", "RUN", ["run"], (1,)):
        raise error
    assert ended.value.code == code and capsys.readouterr().err == f"bundle: {error}\n"


def test_what_the_system_refuses_is_told(capsys):
    with pytest.raises(SystemExit) as ended, module_command("bundle", "RUN", ["run"], (1,)):
        raise OSError(36, "File name too long", "a.csv")
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err == "bundle: cannot use a.csv: File name too long; check the path and its permissions\n"
    )


def test_ctrl_c_is_no_traceback(capsys):
    with pytest.raises(SystemExit) as ended, module_command("bundle", "RUN", ["run"], (1,)):
        raise KeyboardInterrupt
    assert ended.value.code == 130 and capsys.readouterr().err == "bundle: stopped\n"


def test_a_fault_of_the_program_is_not_taken_for_one_of_its_user():
    with pytest.raises(ZeroDivisionError), module_command("bundle", "RUN", ["run"], (1,)):
        raise ZeroDivisionError


def test_another_number_of_arguments_is_refused_before_anything_is_done(capsys):
    with pytest.raises(SystemExit) as ended, module_command("bundle", "RUN", [], (1,)):
        raise AssertionError("was done")
    assert ended.value.code == 2 and capsys.readouterr().err == "bundle: use: python -m lmcl_core.bundle RUN\n"
