"""The demo's web is served once, however many blocks of a process ask for it."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.params.recipes import recipe
from flows.steps.world import rows_ready, world_served
from tasks.world.dataset import WorldConfig, read_world

TINY = WorldConfig(pretraining_images=20, retrieval_train=1, retrieval_val=1, retrieval_test=1, workers=1)


def test_a_flow_within_a_command_uses_the_web_that_the_command_serves(tmp_path: Path) -> None:
    params = recipe("demo", str(tmp_path))
    with world_served(params, TINY):
        port = read_world(tmp_path / "world").port
        with rows_ready(params) as ready:
            assert ready.accept_changes
            assert read_world(tmp_path / "world").port == port
        assert is_served(port), "the inner block has ended, the outer one has not"
    assert not is_served(port)
    with rows_ready(params):
        assert is_served(port)


@pytest.mark.slow("draws a world")
def test_text_is_drawn_for_an_experiment_that_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "world/text/passages.txt"
    with world_served(recipe("demo", str(tmp_path)), TINY):
        assert not file.exists()
    with world_served(recipe("demo-vl-bert", str(tmp_path)), TINY):
        assert len(file.read_text().splitlines()) == 2000


def test_other_rows_are_left_as_they_are(tmp_path: Path) -> None:
    params = recipe("cc3m", str(tmp_path))
    with rows_ready(params) as ready:
        assert ready == params
    assert list(tmp_path.iterdir()) == []


def is_served(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/nowhere", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code == 404
    except urllib.error.URLError:
        return False
    pytest.fail("there is a page that should not be there")
