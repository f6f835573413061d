"""Machines that train together: the first one that never listens, the one that never comes, and the result."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tasks.errors import StageError, UserError
from tasks.records import CheckpointRef, Stage
from tasks.storage.root import Root
from tasks.workers import launch, nodes
from tasks.workers.launch import run_module
from tasks.workers.machines import NodesConfig
from tasks.workers.nodes import wait_for_first_node, wait_for_result

DONE = CheckpointRef(run="pretrain-0123456789ab", stage=Stage.PRETRAIN, uri="u", step=5, fingerprint="f")


class Job(BaseModel):
    """Of a module that is never begun."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(nodes, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(nodes, "_RESULT_SECONDS", 0.1)
    monkeypatch.setattr(launch, "PATIENCE_SECONDS", 1.0)


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def node(port: int, rank: int = 1) -> NodesConfig:
    return NodesConfig(nnodes=2, node_rank=rank, master_addr="127.0.0.1", master_port=port)


def test_a_node_goes_on_once_the_first_one_listens(port: int) -> None:
    assert wait_for_first_node(node(port), lambda: None) is None


def test_a_run_that_is_done_is_not_waited_for() -> None:
    assert wait_for_first_node(node(1), lambda: DONE) == DONE


def test_a_first_node_that_does_not_listen_is_named_with_what_to_do() -> None:
    with pytest.raises(
        UserError, match=r"node 0 does not listen at 127\.0\.0\.1:1 \(.*\); start .* with --node-rank 0"
    ):
        wait_for_first_node(node(1), lambda: None)


def test_the_result_is_waited_for_and_its_absence_told(tmp_path: Path) -> None:
    found = iter([None, None, DONE])
    assert wait_for_result(node(1), Root(str(tmp_path)), lambda: next(found)) == DONE
    with pytest.raises(
        StageError, match=r"node 1 of 2: the training ended well, but its result is not under .*same root"
    ):
        wait_for_result(node(1), Root(str(tmp_path)), lambda: None)


@pytest.mark.slow("waits for torchrun to give up")
def test_nodes_that_do_not_come_are_counted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = int(listener.getsockname()[1])
    with pytest.raises(
        StageError, match=rf"^1 of 2 nodes came to 127\.0\.0\.1:{free} within .* each with its --node-rank"
    ):
        run_module("json", Job(), tmp_path / "job.json", tmp_path / "log.txt", print, nodes=node(free, rank=0))
