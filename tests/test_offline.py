"""No test reaches the network, nor does a process that it starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from offline.sitecustomize import REFUSALS

ASK = "import socket, urllib.request\ntry:\n    {}\nexcept Exception as error:\n    print(error)"
REQUESTS = [
    "urllib.request.urlopen('http://example.org', timeout=5)",
    "socket.create_connection(('192.0.2.1', 80), timeout=5)",
    "socket.socket().connect_ex(('192.0.2.1', 80))",
    "socket.gethostbyname('example.org')",
]


@pytest.fixture
def refusals(no_network):
    """The file of refusals, which the test must take away."""
    path = Path(os.environ[REFUSALS])
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_network_is_refused_here_and_in_other_processes(refusals, request_):
    with pytest.raises(Exception, match="test_the_network_is_refused.* uses the network"):
        exec(ASK.format(request_).replace("print(error)", "raise"))
    command = [sys.executable, "-c", ASK.format(request_)]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert "test_the_network_is_refused" in said and len(refusals.read_text().splitlines()) == 2


QUIET = """
import socket

def test_quiet():
    try:
        socket.getaddrinfo("example.org", 80)
    except RuntimeError:
        pass
"""


@pytest.mark.slow
def test_a_refusal_that_the_code_catches_fails_the_test(tmp_path):
    (tmp_path / "test_quiet.py").write_text(QUIET)
    command = [sys.executable, "-m", "pytest", "-p", "offline.fixture", str(tmp_path)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 1 and "::test_quiet (call) uses the network: example.org" in run.stdout


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
