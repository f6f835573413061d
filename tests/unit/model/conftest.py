"""The toy feature set, as fixtures."""

import pytest

from model.jobs import PretrainJob
from model.objectives.config import PretrainConfig
from tests.toy import eight_pairs, make_world, tiny

__all__ = ["eight_pairs", "make_world", "tiny"]


@pytest.fixture
def job(eight_pairs, tiny, tmp_path):
    """A pretraining job with dropout, so that the random state matters too."""
    source, vocabulary = eight_pairs

    def make(run: str = "run", **changes) -> PretrainJob:
        # One thread: with another number the sums of a matrix product may round differently.
        fields = {"steps": 12, "batch_size": 4, "checkpoint_steps": 5, "log_steps": 2, "num_threads": 1, **changes}
        return PretrainJob(
            run_path=str(tmp_path / run),
            train=source,
            vocabulary_path=str(vocabulary),
            encoder=tiny.model_copy(update={"dropout": 0.1}),
            pretrain=PretrainConfig(**fields),
        )

    return make
