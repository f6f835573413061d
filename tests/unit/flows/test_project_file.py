"""Reading prefect.yaml: what is filled in, and what is refused with one sentence."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

import flows
from flows.operate.deployments import home_folder, project_file, read_project
from tasks.errors import UserError

PULL = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $UNICODER_VL_HOME }}"}}]


def deployment(**changed: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "description": "A small one.",
        "tags": ["unicoder-vl"],
        "entrypoint": "flows.download.download",
        "work_pool": {"name": "pool"},
        "parameters": {"params": {"root_uri": "data", "weights": "{{ $UNICODER_VL_PACKAGES }}/weights"}},
        **changed,
    }


def write(folder: Path, *deployments: dict[str, Any]) -> Path:
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump({"name": "unicoder-vl", "pull": PULL, "deployments": list(deployments)}))
    return path


def test_home_and_packages_are_filled_in(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, deployment()), Path("/srv/vl"))
    (step,) = project.pull
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "/srv/vl"}}
    packages = Path(flows.__path__[0]).parent
    assert project.deployments[0].parameters["params"]["weights"] == f"{packages}/weights"


def test_other_variables_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, deployment(parameters={"params": {"root_uri": "{{ $MY_BUCKET }}/cc3m"}}))
    monkeypatch.delenv("MY_BUCKET", raising=False)
    with pytest.raises(UserError, match="names the variable MY_BUCKET, which is not set"):
        read_project(path, tmp_path)
    monkeypatch.setenv("MY_BUCKET", "s3://images")
    assert read_project(path, tmp_path).deployments[0].parameters["params"]["root_uri"] == "s3://images/cc3m"


def test_another_pool_takes_all_deployments(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, deployment(), deployment(name="other")), tmp_path)
    assert project.pools == ["pool"]
    assert project.with_pool("gpus").pools == ["gpus"]


def test_the_slowest_heartbeat_counts_and_none_is_prefects(tmp_path: Path) -> None:
    def beating(seconds: str) -> dict[str, Any]:
        return {"name": "pool", "job_variables": {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": seconds}}}

    often = deployment(work_pool=beating("30"))
    assert read_project(write(tmp_path, often, deployment(work_pool=beating("60"))), tmp_path).heartbeat_seconds == 60
    assert read_project(write(tmp_path, often, deployment()), tmp_path).heartbeat_seconds == 180


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("deployments: [", "is not YAML"),
        ("just words", "declares no deployments"),
        ("name: other", "pull: Field required"),
        (yaml.safe_dump({"pull": PULL, "deployments": [deployment(entrypoint="flows/a.py:a")]}), r"entrypoint"),
        (yaml.safe_dump({"pull": PULL, "deployments": [deployment(triggers=[])]}), r"triggers: there is no such field"),
    ],
)
def test_a_file_that_declares_something_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_project(path, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read"):
        read_project(tmp_path / "nowhere.yaml", tmp_path)


def test_runs_work_where_the_environment_says_or_else_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNICODER_VL_HOME", raising=False)
    assert home_folder() == tmp_path
    monkeypatch.setenv("UNICODER_VL_HOME", "/srv/vl")
    assert home_folder() == Path("/srv/vl")


def test_the_file_of_the_project_is_found() -> None:
    assert read_project(project_file(), Path("/srv/vl")).pools == ["unicoder-vl"]


def test_the_server_takes_what_each_deployment_sets() -> None:
    """As Prefect's server validates a deployment when it is made."""
    for one in read_project(project_file(), home_folder()).deployments:
        module, _, name = one.entrypoint.rpartition(".")
        schema = parameter_schema(getattr(import_module(module), name)).model_dump()
        validate(one.parameters, schema, raise_on_error=True, ignore_required=True)
