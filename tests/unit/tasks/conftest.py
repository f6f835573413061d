"""The server of faults, for all tests of this room."""

from tests.faults import running, server

__all__ = ["running", "server"]
