"""Progress on Prefect's page: one bar a stage, which follows and ends full."""

from __future__ import annotations

import logging
import time
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run

from flows.views.progress import ProgressLog
from flows.views.progress_bar import progress_bar

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_harness")]

log = logging.getLogger("test_progress_bar")


def bars_of(run: str) -> list[Artifact]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=of_run)


def test_a_stage_has_one_bar_that_ends_full() -> None:
    seen = []

    @flow
    def working() -> str:
        run = str(flow_run.id)
        with progress_bar("pretrain-0123456789ab", every_seconds=0.1) as show:
            progress = ProgressLog(log, "pretrain-0123456789ab", "steps", show=show)
            progress(1, 4)
            until = time.monotonic() + 30
            while not (bars := bars_of(run)) and time.monotonic() < until:
                time.sleep(0.1)
            seen.extend(bars)
            progress(4, 4)
        return run

    (last,) = bars_of(working())
    assert (last.type, last.key) == ("progress", "progress-pretrain-0123456789ab")
    assert [bar.data for bar in seen] == [25.0]
    assert last.data == 100.0


def test_a_stage_with_nothing_to_do_has_none() -> None:
    @flow
    def idle() -> str:
        with progress_bar("download", every_seconds=0.1):
            pass
        return str(flow_run.id)

    assert bars_of(idle()) == []
