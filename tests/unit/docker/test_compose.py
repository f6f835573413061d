"""The compose files without an engine: what they name exists here, and the parts agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.commands.app import app
from flows.operate.worker import STOP_SECONDS

REPOSITORY = Path(__file__).parents[3]
DOCKER = REPOSITORY / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("unicoder-vl:")]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def test_services_are_a_database_a_server_its_setup_and_a_worker() -> None:
    assert set(SERVICES) == {"postgres", "server", "setup", "worker"}
    assert set(OURS) == {"server", "setup", "worker"}


def test_image_is_built_from_files_that_exist_and_has_the_version_of_the_project() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    for name in OURS:
        build = SERVICES[name]["build"]
        context = (DOCKER / build["context"]).resolve()
        assert context == REPOSITORY
        assert (context / build["dockerfile"]).is_file()
        assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
        assert SERVICES[name]["image"] == f"unicoder-vl:{version}"


def test_no_image_is_the_latest_of_its_name() -> None:
    assert all(re.search(r":\d+\.\d+", service["image"]) for service in SERVICES.values())


@pytest.mark.parametrize("service", ["server", "setup", "worker"])
def test_commands_are_programs_of_the_image(service: str) -> None:
    program, command, *_ = SERVICES[service]["command"]
    assert program in {"prefect", "unicoder-vl"}
    if program == "unicoder-vl":
        assert command in typer.main.get_group(app).list_commands(None)  # type: ignore[arg-type]


def test_worker_and_deployments_share_one_pool() -> None:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    command = SERVICES["worker"]["command"]
    assert {one["work_pool"]["name"] for one in deployments} == {command[command.index("--pool") + 1]}


def test_volumes_are_where_the_deployments_and_the_libraries_keep_everything() -> None:
    roots = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["definitions"]["root_uri"]
    home = re.search(r"UNICODER_VL_HOME=(\S+)", DOCKERFILE)
    cache = re.search(r"XDG_CACHE_HOME=(\S+)", DOCKERFILE)
    assert home and cache
    mounted = SERVICES["worker"]["volumes"]
    assert {f"data:{home[1]}/{roots}", f"cache:{cache[1]}", "scratch:/tmp"} <= set(mounted)
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used - {"${INPUT"} == set(COMPOSE["volumes"])


def test_what_is_no_volume_is_read_only_and_nobody_has_capabilities_to_spare() -> None:
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert not any("cap_add" in SERVICES[name] for name in OURS)
    for name in OURS:
        writable = {place.split(":")[0] for place in SERVICES[name]["tmpfs"]}
        assert writable | {volume.split(":")[1] for volume in SERVICES[name].get("volumes", [])} >= {"/tmp"}


def test_every_long_running_service_has_a_health_check_on_the_port_it_listens_on() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" in service} == {"postgres", "server", "worker"}
    assert ":4200/api/ready" in SERVICES["server"]["healthcheck"]["test"][-1]
    assert SERVICES["worker"]["environment"]["PREFECT_API_URL"] == "http://server:4200/api"
    port = SERVICES["worker"]["environment"]["PREFECT_WORKER_WEBSERVER_PORT"]
    assert f":{port}/health" in SERVICES["worker"]["healthcheck"]["test"][-1]


@pytest.mark.parametrize("service", ["server", "worker"])
def test_health_check_is_python(service: str) -> None:
    kind, program, option, code = SERVICES[service]["healthcheck"]["test"]
    assert (kind, program, option) == ("CMD", "python", "-c")
    compile(code, "healthcheck", "exec")


def test_start_order_waits_for_health_and_for_the_setup() -> None:
    waits = {
        name: {other: wait["condition"] for other, wait in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert waits == {
        "postgres": {},
        "server": {"postgres": "service_healthy"},
        "setup": {"server": "service_healthy"},
        "worker": {"setup": "service_completed_successfully"},
    }


def test_the_worker_has_time_to_end_its_runs() -> None:
    assert SERVICES["worker"]["command"][:2] == ["unicoder-vl", "worker"]  # Prefect's own kills them at once.
    minutes = re.fullmatch(r"(\d+)m", SERVICES["worker"]["stop_grace_period"])
    assert minutes
    assert 60 * int(minutes[1]) > STOP_SECONDS + 10


def test_what_runs_for_ever_starts_again_and_the_setup_does_not() -> None:
    assert {name: service["restart"] for name, service in SERVICES.items()} == {
        "postgres": "unless-stopped",
        "server": "unless-stopped",
        "setup": "no",
        "worker": "unless-stopped",
    }


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    needed, optional = [], []
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|AUTH", name):
                needed.append(str(value))
            elif re.search("KEY|TOKEN|SECRET", name):
                optional.append(value)
    assert len(needed) == 5
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for value in needed)
    # Without a value: as it is where compose is run, and not set at all where it is not.
    assert optional == [None] * 4


def test_the_example_names_every_variable_and_holds_no_secret() -> None:
    example = (DOCKER / ".env.example").read_text()
    compose = (DOCKER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", compose))
    assert set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)) >= asked
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose))
    given = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    assert {name: value for name, value in given.items() if value} == {
        name: value for name, value in defaults.items() if value
    }


def test_ports_are_open_to_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:${SERVER_PORT:-4200}:4200"]


def test_only_the_server_reaches_the_database() -> None:
    assert COMPOSE["networks"] == {"database": {"internal": True}}
    assert {name for name, service in SERVICES.items() if "database" in service.get("networks", [])} == {
        "postgres",
        "server",
    }
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_server_reads_its_database_from_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["server"]["environment"].items():
        monkeypatch.setenv(name, "p@ss/w" if name.endswith("PASSWORD") else value)
    from prefect.settings import Settings

    url = Settings().server.database.connection_url
    assert url is not None
    assert url.get_secret_value() == "postgresql+asyncpg://prefect:p%40ss%2Fw@postgres:5432/prefect"


def test_gpu_file_changes_a_service_that_exists() -> None:
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) <= set(SERVICES)
