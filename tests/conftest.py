"""What all tests share: no Prefect settings of the developer's own, and one Prefect server for those that need it."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.s3_server import Bucket, S3Server

for _name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE"):
    os.environ.pop(_name, None)
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

# In the background, or under nohup, these are ignored, and every command that a test starts would ignore them, too. A
# handler of ours does nothing here, and leaves what is started with the default.
for _signal in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda *_: None)


@pytest.fixture(scope="session")
def prefect_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server with a database of its own, started once. It takes long: mark tests that use it `flow`."""
    os.environ.setdefault("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server of S3 on loopback, started once."""
    from tests.s3_server import serving_s3

    with serving_s3() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket there, with an environment that leads to it."""
    from s3fs import S3FileSystem

    from tests.s3_server import Bucket

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    S3FileSystem.clear_instance_cache()  # They are kept by their arguments, whatever the environment says now.
    yield Bucket(s3_server, f"bucket-{uuid.uuid4().hex[:12]}")
    S3FileSystem.clear_instance_cache()
    s3_server.on_request = lambda request: None
