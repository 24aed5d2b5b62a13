"""Every result names the commit and the package versions that produced it."""

from __future__ import annotations

import subprocess

import pytest
import torch

from lmcl_core.runs import provenance as module
from lmcl_core.runs.provenance import combine, commit_in_words, provenance


def test_the_commit_and_uncommitted_changes_are_recorded(monkeypatch, tmp_path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    code = tmp_path / "lmcl_core" / "runs" / "provenance.py"
    code.parent.mkdir(parents=True)
    code.write_text("")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(module, "__file__", str(code))
    assert (provenance()["commit"], provenance()["dirty"]) == (git("rev-parse", "HEAD").strip(), False)
    code.write_text("changed")
    assert provenance()["dirty"] is True


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 20)])
def test_without_a_working_git_the_commit_is_unknown(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(module.subprocess, "run", fail)
    assert (provenance()["commit"], provenance()["dirty"]) == (None, None)


def test_package_versions_are_recorded_and_a_missing_package_has_none(monkeypatch):
    versions = provenance()["versions"]
    assert set(versions) == set(module.PACKAGES) and all(versions.values())
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no-such-package"))
    assert provenance()["versions"]["no-such-package"] is None


def code_version(commit, dirty):
    return dict(commit=commit, dirty=dirty, versions={})


@pytest.mark.parametrize(
    "before, now, both, words",
    [
        (None, ("b", False), ("b", False), "b"),
        (("b", True), ("b", False), ("b", True), "b with changes"),
        (("a, b", False), ("c", True), ("a, b, c", True), "a, b, c with changes"),
        (("a, b", False), ("a", False), ("a, b", False), "a, b"),
        ((None, None), (None, None), (None, None), "not known"),
        ((None, None), ("b", False), ("not known, b", None), "not known, b"),
    ],
)
def test_a_run_resumed_by_another_version_lists_both_commits(before, now, both, words):
    combined = combine(before and code_version(*before), code_version(*now))
    assert combined == code_version(*both) and commit_in_words(combined) == words
