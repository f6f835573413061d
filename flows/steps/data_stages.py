"""The two stages that make an experiment's data: download and extract."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flows.params.experiment import RebuildParams
from flows.params.shards import DownloadParams, ExtractParams
from flows.results import StageSummary
from flows.views.stage_texts import lost_text
from tasks.errors import StageError

log = logging.getLogger("flows.data")


class DataStages(NamedTuple):
    """The two stages as functions: Prefect flows, or those of `flows.steps.direct`."""

    download: Callable[[DownloadParams], list[StageSummary]]
    extract: Callable[[ExtractParams], list[StageSummary]]


def make_data(params: RebuildParams, stages: DataStages) -> tuple[list[StageSummary], list[StageSummary]]:
    """Download and extract; return the summaries of both.

    Raises:
        StageError: more shards failed than may, or any of the split that is measured.
    """
    downloads = stages.download(params.for_download())
    _log_done("download", downloads)
    extractions = stages.extract(params.for_extract())
    _log_done("extract", extractions)
    check_measured(params, extractions)
    return downloads, extractions


def _log_done(stage: str, summaries: Sequence[StageSummary]) -> None:
    """Log the summaries: on Prefect's page, each stage's own lines are on the page of its own run."""
    now, before = sum(summary.ran for summary in summaries), sum(summary.skipped for summary in summaries)
    log.info("%s: %d shards done now, %d done before", stage, now, before)


def check_measured(params: RebuildParams, extractions: Sequence[StageSummary]) -> None:
    """Raise StageError unless the measured split is whole: recall over a part of it is another number."""
    name = f"{params.retrieval_dataset.name}/{params.evaluation_split}"
    for summary in extractions:
        if summary.name == name and summary.failed:
            raise StageError(
                f"{name} is what recall is measured on, and it lacks {lost_text(summary)}; it has to be whole: run "
                "the command again for these, whatever max_failed_share allows of the others"
            )
