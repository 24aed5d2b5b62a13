"""No network in tests: Python connects to nothing but this machine, in the test run and in every process it starts.

`tests/conftest.py` puts this folder on PYTHONPATH, from which Python imports this module when it starts. A refusal is
also written to the file in REFUSALS, because the code under test may catch the error.
"""

from __future__ import annotations

import ipaddress
import os
import socket

REFUSALS = "LMCL_TESTS_REFUSALS"  #: environment variable


class NetworkError(RuntimeError):
    """A test needs the network."""


def _is_here(host: object) -> bool:
    """Whether a name or an address is of this machine; only to its own addresses can it bind."""
    if host in (None, "", b"", "localhost", socket.gethostname()):
        return True
    try:
        family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True


def _refuse(host: object) -> None:
    if not _is_here(host) and (path := os.environ.get(REFUSALS)):
        message = f"{os.environ.get('PYTEST_CURRENT_TEST', 'a test')} uses the network: {host}"
        with open(path, "a") as file:
            print(message, file=file)
        raise NetworkError(message)


def _guarded(connect):
    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM:
            _refuse(address[0])  # datagram sockets only choose a route when they connect
        return connect(self, address)

    return guarded


def _guarded_lookup(look_up):
    def guarded(host, *arguments, **options):
        try:
            ipaddress.ip_address(host)  # needs no look-up
        except ValueError:
            _refuse(host)
        return look_up(host, *arguments, **options)

    return guarded


socket.socket.connect, socket.socket.connect_ex = map(_guarded, (socket.socket.connect, socket.socket.connect_ex))
socket.getaddrinfo, socket.gethostbyname = map(_guarded_lookup, (socket.getaddrinfo, socket.gethostbyname))
