"""The deployments that prefect.yaml declares, read without Prefect."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from flows.params.checks import validation_text
from flows.params.shards import Params
from tasks.errors import UserError

HOME_VARIABLE = "UNICODER_VL_HOME"
"""Names the folder that deployed runs work in: relative paths of their parameters are relative to it."""

_PACKAGES = Path(__file__).parents[2]
_PLACEHOLDER = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")
_HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
_DEFAULT_HEARTBEAT_SECONDS = 180
"""Prefect's own."""


class PoolSpec(Params):
    """Where runs of a deployment wait for a worker, and what the worker starts them with."""

    name: str
    job_variables: dict[str, Any] = Field(default={}, description="of the pool's type; env is the run's environment")

    @property
    def heartbeat_seconds(self) -> int:
        """How often a run says that it lives."""
        return int(self.job_variables.get("env", {}).get(_HEARTBEAT, _DEFAULT_HEARTBEAT_SECONDS))


class LimitSpec(Params):
    """How many runs of a deployment there are at once, and what becomes of a further one."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"

    @property
    def options(self) -> dict[str, str]:
        return {"collision_strategy": self.collision_strategy}


class CronSpec(Params):
    cron: str
    timezone: str = "UTC"


class DeploymentSpec(Params):
    """One entry of `deployments` in prefect.yaml: that part of Prefect's format which is used here."""

    name: str
    description: str
    tags: tuple[str, ...]
    entrypoint: str = Field(pattern=r"^\w+(\.\w+)+$", description="module and name of the flow, such as flows.a.a")
    work_pool: PoolSpec
    concurrency_limit: LimitSpec | None = None
    schedules: tuple[CronSpec, ...] = ()
    parameters: dict[str, Any]


class ProjectSpec(Params):
    """What of prefect.yaml is registered with a server."""

    pull: tuple[dict[str, dict[str, Any]], ...] = Field(description="what a worker does before it imports the flow")
    deployments: tuple[DeploymentSpec, ...] = Field(min_length=1)

    def with_pool(self, name: str) -> ProjectSpec:
        """The same for a work pool of another name."""
        moved = [
            one.model_copy(update={"work_pool": one.work_pool.model_copy(update={"name": name})})
            for one in self.deployments
        ]
        return self.model_copy(update={"deployments": tuple(moved)})

    @property
    def pools(self) -> list[str]:
        return sorted({one.work_pool.name for one in self.deployments})

    @property
    def heartbeat_seconds(self) -> int:
        """How often the slowest of the runs says that it lives."""
        return max(one.work_pool.heartbeat_seconds for one in self.deployments)


def home_folder() -> Path:
    """The folder that deployed runs shall work in: UNICODER_VL_HOME, or else the current one."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.cwd()).resolve()


def project_file() -> Path:
    """The prefect.yaml that comes with the package, or lies in the checkout that is installed."""
    checkout = _PACKAGES / "prefect.yaml"
    return checkout if checkout.is_file() else Path(sys.prefix) / "share" / "unicoder-vl" / "prefect.yaml"


def read_project(path: Path, home: Path) -> ProjectSpec:
    """Read a prefect.yaml, and fill in `{{ $VARIABLE }}`: the home, where the packages are, else the environment.

    Raises:
        UserError: the file cannot be read, a variable is not set, or an entry is not as it should be.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name another file with --file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} declares no deployments; see the prefect.yaml of this project")
    known = {**os.environ, HOME_VARIABLE: str(home), "UNICODER_VL_PACKAGES": str(_PACKAGES)}
    declared = {name: content[name] for name in ("pull", "deployments") if name in content}
    try:
        return ProjectSpec.model_validate(_filled_in(declared, known))
    except KeyError as error:
        raise UserError(f"{path} names the variable {error.args[0]}, which is not set; export it") from error
    except ValidationError as error:
        raise UserError(f"{path}: {validation_text(error, ProjectSpec)}") from error


def _filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """The same with every placeholder replaced.

    Raises:
        KeyError: there is no such variable.
    """
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda match: variables[match[1]], value)
        case dict():
            return {name: _filled_in(item, variables) for name, item in value.items()}
        case list():
            return [_filled_in(item, variables) for item in value]
        case _:
            return value
