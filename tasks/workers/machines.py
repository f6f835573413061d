"""Settings of the machines: the Ray cluster that works on shards, and the nodes of one training. Imports no ray."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tasks.config import Config, Uri


class RayConfig(Config):
    """A Ray cluster whose workers replace worker processes of this machine.

    This package is installed on all its machines, in the same version: one image. Credentials of the root's store come
    from each machine's own environment.
    """

    address: Uri = Field(
        default="auto",
        min_length=1,
        description="auto: the cluster that this machine has joined with `ray start`; HOST:PORT: the one whose head "
        "that is, which this machine has joined; local: one of this machine alone, made for the stage",
    )
    gpus_each: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of a GPU for each worker that extracts, 0.5 where two share one; 0: workers see none. "
        "None: a GPU each, or none where extractor.device is cpu. Downloading needs none",
    )
    cpus_each: int = Field(default=2, ge=1, description="cores for each worker")
    shared_disk: bool = Field(
        default=False,
        description="local paths (of the root, of pictures on disk) lead to the same files on every machine, as on "
        "NFS; off, they are refused where the cluster has several machines",
    )
    wait_seconds: float = Field(
        default=30.0,
        ge=0,
        description="longest wait for a cluster that grows, or works for others, to have room for all workers, seconds",
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_address(cls, given: Any) -> Any:
        """Read a plain string as an address."""
        return {"address": given} if isinstance(given, str) else given

    def gpus_on(self, device: str) -> float:
        """The share of a GPU for a worker with this extractor.device."""
        if self.gpus_each is not None:
            return self.gpus_each
        return 0.0 if device == "cpu" else 1.0


class NodesConfig(Config):
    """The nodes that train one run together, as torchrun has it: this one's rank, and where the first one listens."""

    nnodes: int = Field(ge=2, description="how many machines")
    node_rank: int = Field(ge=0, description="number of this machine; 0 writes the run, the others follow")
    master_addr: str = Field(min_length=1, description="host name or address of machine 0")
    master_port: int = Field(default=29500, ge=1, le=65535, description="free port of machine 0")

    @model_validator(mode="after")
    def _check_rank(self) -> NodesConfig:
        if self.node_rank >= self.nnodes:
            raise ValueError(f"node_rank={self.node_rank}: {self.nnodes} nodes are 0 to {self.nnodes - 1}")
        return self

    def __str__(self) -> str:
        return f"node {self.node_rank} of {self.nnodes}"
