import math
from pathlib import Path

import numpy as np
import pytest

from model.config import OptimConfig
from model.objectives.config import PretrainConfig
from model.objectives.matching_watch import DEVIATIONS, RECENT, STALLED, MatchingWatch, is_guess, remedies
from model.pretrain import run_pretraining


def watch(caplog, accuracies, log_steps=50, **changes):
    """What is added to the line of each 50 steps of 64 pairs, and what is said."""
    watching = MatchingWatch(PretrainConfig(**{"steps": 2000, "batch_size": 64, **changes}))
    pairs = 64.0 * log_steps * (2 if changes.get("matching") == "paired" else 1)
    lines = [
        watching(log_steps * number, {"vlm_accuracy": accuracy}, {"mlm": 7.0, "vlm": pairs})
        for number, accuracy in enumerate(accuracies, 1)
    ]
    return lines, [record.getMessage() for record in caplog.records]


def test_a_guess_is_within_three_deviations_of_half():
    edge = 10_000 / 2 + DEVIATIONS * math.sqrt(10_000) / 2
    assert is_guess(edge, 10_000) and not is_guess(edge + 1, 10_000) and is_guess(4_000, 10_000)
    right = np.random.default_rng(0).binomial(10_000, 0.5, size=20_000)
    assert sum(not is_guess(count, 10_000) for count in right) == pytest.approx(20_000 * 0.00135, abs=5 * 27**0.5)


def test_matching_that_stays_at_half_is_told_once_with_what_helps(caplog):
    rng = np.random.default_rng(1)
    lines, told = watch(caplog, rng.binomial(3200, 0.5, size=40) / 3200)
    # 20,000 pairs are seen at step 350; 200 steps warm up.
    assert [STALLED in line for line in lines] == [False] * 6 + [True] * 34
    assert all(line == {STALLED: 1.0} for line in lines[6:])
    assert len(told) == 1
    assert told[0].startswith("pretrain step 350: matching is no better than a guess (") and told[0].endswith(
        "of the last 12800 pairs are right) after 22400 pairs; on small data pretrain.matching=paired, "
        "pretrain.objectives.vlm=10 and pretrain.optim.learning_rate=2e-4 help (docs/own-data.md)"
    )


def test_matching_that_is_learnt_is_left_alone_also_where_it_begins_late(caplog):
    lines, told = watch(caplog, [0.5] * 2 + [0.53] * 10)
    assert told == [] and lines[-1] == {STALLED: 0.0}
    lines, told = watch(caplog, [0.5] * 10 + [0.6] * 10)
    assert len(told) == 1 and lines[9] == {STALLED: 1.0} and lines[-1] == {STALLED: 0.0}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"matching": "paired"}, 4),  # twice the pairs
        ({"optim": OptimConfig(warmup_share=0.5)}, 20),
        ({"matching_weight": 0.0}, None),
    ],
)
def test_it_is_judged_after_enough_pairs_and_the_warm_up(caplog, changes, first):
    lines, told = watch(caplog, [0.5] * 25, **changes)
    judged = [number for number, line in enumerate(lines, 1) if line]
    assert (judged[0] if judged else None) == first and len(told) == (first is not None)


def test_a_run_that_goes_on_is_judged_when_enough_pairs_of_its_own_were_seen():
    watching = MatchingWatch(PretrainConfig(steps=10_000, batch_size=64))
    lines = [watching(5000 + 50 * number, {"vlm_accuracy": 0.5}, {"vlm": 3200.0}) for number in range(1, 6)]
    assert [bool(line) for line in lines] == [number * 3200 >= RECENT for number in range(1, 6)]


def test_lines_without_matching_targets_say_nothing():
    watching = MatchingWatch(PretrainConfig(steps=10, batch_size=20_000))
    assert watching(10, {}, {"mlm": 4.0, "vlm": 0.0}) == watching(10, {}, {}) == {}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("paired", "vlm", 1.0, 2e-4), "on small data pretrain.objectives.vlm=10 helps"),
        (
            ("replace", "vlm", 10.0, 1e-4),
            "on small data pretrain.matching=paired and pretrain.optim.learning_rate=2e-4 help",
        ),
        (("paired", "itm", 10.0, 3e-4), "more steps or more data may help"),
    ],
)
def test_what_is_set_already_is_not_advised(settings, text):
    assert remedies(*settings).startswith(text)


def test_a_training_run_writes_the_judgement_down(job, monkeypatch, caplog):
    monkeypatch.setattr("model.objectives.matching_watch.LEAST_SEEN", 30)
    monkeypatch.setattr("model.objectives.matching_watch.RECENT", 16)
    task = job(matching="paired", optim=OptimConfig(learning_rate=1e-12))
    assert run_pretraining(task) == 0
    judged = [STALLED in line for line in (Path(task.run_path) / "metrics.jsonl").read_text().splitlines()]
    # Eight pairs a step, a line each two.
    assert judged == [False, True, True, True, True, True]
    assert sum("no better than a guess" in record.getMessage() for record in caplog.records) <= 1
