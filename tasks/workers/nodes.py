"""Nodes that train one run together: the others wait for the first one, at the start and at the end."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from tasks.errors import StageError, UserError
from tasks.records import CheckpointRef
from tasks.storage.root import Root
from tasks.workers.launch import PATIENCE_SECONDS
from tasks.workers.machines import NodesConfig

_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_RESULT_SECONDS = 1800.0
"""For the upload of the last checkpoint; under a local root, for what the first node wrote to be seen."""
_LOOK_EVERY = 10
"""Waits between looks at the root: it may be an object store, where each is a request."""

log = logging.getLogger(__name__)


def wait_for_first_node(nodes: NodesConfig, result: Callable[[], CheckpointRef | None]) -> CheckpointRef | None:
    """Wait until the first node listens: by then the root has what all nodes resume from.

    Args:
        nodes: which of them this machine is.
        result: finds the run's final checkpoint.

    Returns:
        The final checkpoint, if there is one: then nobody listens.

    Raises:
        UserError: the first node does not listen within `PATIENCE_SECONDS`.
    """
    log.info("%s: waiting for node 0 at %s:%d", nodes, nodes.master_addr, nodes.master_port)
    until, looks = time.monotonic() + PATIENCE_SECONDS, 0
    while True:
        if looks % _LOOK_EVERY == 0 and (done := result()) is not None:
            return done
        looks += 1
        try:
            with socket.create_connection((nodes.master_addr, nodes.master_port), timeout=_CONNECT_SECONDS):
                log.info("%s: node 0 is there; it tells how far the training is", nodes)
                return None
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"node 0 does not listen at {nodes.master_addr}:{nodes.master_port} ({error}); start the same "
                    "command there with --node-rank 0, and see that this machine can reach that port"
                ) from error
        time.sleep(_POLL_SECONDS)


def wait_for_result(nodes: NodesConfig, root: Root, result: Callable[[], CheckpointRef | None]) -> CheckpointRef:
    """Wait until the root has the first node's finished training.

    Raises:
        StageError: it has not within half an hour.
    """
    until = time.monotonic() + _RESULT_SECONDS
    while (done := result()) is None:
        if time.monotonic() > until:
            raise StageError(
                f"{nodes}: the training ended well, but its result is not under {root.uri}; see what node 0 says, and "
                "that all nodes have the same root"
            )
        time.sleep(_POLL_SECONDS)
    return done
