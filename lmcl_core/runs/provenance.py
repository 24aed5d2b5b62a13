"""Provenance of results: the commit of the code, uncommitted changes, and package versions."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scipy", "pandas", "pillow", "safetensors")


def provenance() -> dict[str, Any]:
    """Keys commit and dirty of the package's checkout (None outside a checkout), and versions of `PACKAGES`."""
    checkout = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(checkout), *args], capture_output=True, text=True, timeout=20)
        except (FileNotFoundError, subprocess.TimeoutExpired):  # git is not installed, or hangs
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--", "lmcl_core", "environment.yml", "pyproject.toml")
    return dict(
        commit=git("rev-parse", "HEAD"),
        dirty=None if status is None else bool(status),
        versions={name: _version(name) for name in PACKAGES},
    )


def combine(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a resumed run: both commits if they differ, dirty if either was, the package versions of `now`.

    `before` is the provenance when the run started, None if it was not recorded.
    """
    if before is None:
        return now
    flags = [before["dirty"], now["dirty"]]
    now = dict(now, dirty=any(flags) or (None if None in flags else False))
    if before["commit"] == now["commit"]:
        return now
    commits = ", ".join(commit or "not known" for commit in (before["commit"], now["commit"]))
    return dict(now, commit=", ".join(dict.fromkeys(commits.split(", "))))


def commit_in_words(record: dict[str, Any]) -> str:
    """Commit of a record of a run, for tables; "with changes" is appended if there were uncommitted changes."""
    return f"{record['commit'] or 'not known'}{' with changes' if record.get('dirty') else ''}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # torchvision may be absent
        return None
