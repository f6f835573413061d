"""What all tests share: no Prefect settings of the developer's own, one Prefect server a lane, a limit on slow tests.

`make test` runs a file on one lane (pytest-xdist). Files with slow tests are begun first, so that no lane is left alone
with one of them at the end.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Generator, Iterator, Sequence
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


UNMARKED_SECONDS = 20.0
"""A test that takes longer has to be marked slow, with the reason."""
SLOW_ROOMS = ("tests/flows/", "tests/docs/", "tests/unit/model/", "tests/unit/tasks/")
"""Where most of the time goes, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("flow") or item.nodeid.startswith(("tests/flows/", "tests/docs/")):
            item.add_marker(pytest.mark.slow("servers and whole commands"))
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[bool, int]:
        room = [number for number, name in enumerate(SLOW_ROOMS) if item.nodeid.startswith(name)]
        return item.path not in slow, room[0] if room else len(SLOW_ROOMS)

    items.sort(key=place)  # Files stay whole, and in the order of their names.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that passed, slowly, without a mark that says why. A loaded machine gets more time."""
    report = yield
    allowed = UNMARKED_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    if report.when == "call" and report.passed and call.duration > allowed and not _reasons(item):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {call.duration:.0f} s; {allowed:.0f} s are allowed at this machine's load. Make it "
            'faster, or mark it: @pytest.mark.slow("why")'
        )
    return report


def _reasons(item: pytest.Item) -> Sequence[str]:
    marks = [*item.iter_markers("slow"), *item.iter_markers("soak")]
    return [str(argument) for mark in marks for argument in mark.args]


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
