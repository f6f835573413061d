"""The compose files and the Dockerfile without an engine: what they name exists here, and the parts agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import server
from flows.__main__ import app

REPOSITORY = Path(__file__).parents[3]
DOCKER = REPOSITORY / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "unicoder-vl"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
SCRIPTS = sorted(DOCKER.glob("*.sh"))


def pool_names() -> set[str]:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    return {deployment["work_pool"]["name"] for deployment in deployments}


def build_arguments() -> set[str]:
    return set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


def test_services_are_a_database_a_server_its_setup_and_a_worker() -> None:
    assert set(SERVICES) == {"postgres", "server", "setup", "worker"}
    assert set(OURS) == {"server", "setup", "worker"}


def test_image_is_built_from_files_that_exist() -> None:
    for name in OURS:
        build = SERVICES[name]["build"]
        context = (DOCKER / build["context"]).resolve()
        assert context == REPOSITORY
        assert (context / build["dockerfile"]).is_file()
        assert set(build["args"]) <= build_arguments()


def test_dockerfile_copies_and_runs_what_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    present = {path for pattern in allowed for path in REPOSITORY.glob(pattern)}
    assert all(list(REPOSITORY.glob(pattern)) for pattern in allowed)
    copied = re.findall(r"^COPY (?!--from)(.*) \./?$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split() if source != "."]
    assert {REPOSITORY / source for source in sources} <= present
    run = re.findall(r"^RUN bash (\S+)", DOCKERFILE, re.MULTILINE)
    assert {path.rsplit("/")[-1] for path in run} == {"install.sh", "install_package.sh"}
    for room in ("flows", "tasks", "model", "feature_extraction"):
        assert room in allowed


@pytest.mark.parametrize("service", ["server", "setup", "worker"])
def test_commands_are_programs_of_the_image(service: str) -> None:
    program, command, *_ = SERVICES[service]["command"]
    assert program in {"prefect", "unicoder-vl"}
    if program == "unicoder-vl":
        assert command in {info.name for info in app.registered_commands}


def test_worker_and_deployments_share_one_pool() -> None:
    command = SERVICES["worker"]["command"]
    assert pool_names() == {command[command.index("--pool") + 1]}


def test_data_volume_is_where_the_deployments_keep_everything() -> None:
    roots = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["definitions"]["root_uri"]
    home = re.search(r"UNICODER_VL_HOME=(\S+)", DOCKERFILE)
    assert home
    assert f"data:{home[1]}/{roots}" in SERVICES["worker"]["volumes"]
    assert {volume.split(":")[0] for volume in SERVICES["postgres"]["volumes"]} | {"data"} == set(COMPOSE["volumes"])


def test_every_long_running_service_has_a_health_check_on_the_port_it_listens_on() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" in service} == {"postgres", "server", "worker"}
    assert ":4200/api/health" in SERVICES["server"]["healthcheck"]["test"][-1]
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


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    secrets = [
        str(value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if "PASSWORD" in name or "AUTH" in name
    ]
    assert len(secrets) == 5
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for value in secrets)


def test_ports_are_open_to_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:4200:4200"]


def test_telemetry_is_off_as_it_is_for_the_command_line() -> None:
    quiet = ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT")
    for name in quiet:
        value = server._QUIET[name]
        assert f"{name}={value}" in DOCKERFILE
        assert SERVICES["server"]["environment"][name] == value


def test_server_reads_its_database_from_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["server"]["environment"].items():
        monkeypatch.setenv(name, "p@ss/w" if name.endswith("PASSWORD") else value)
    from prefect.settings import Settings

    url = Settings().server.database.connection_url
    assert url is not None
    assert url.get_secret_value() == "postgresql+asyncpg://prefect:p%40ss%2Fw@postgres:5432/prefect"


def test_image_does_not_run_as_root() -> None:
    user = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert user == ["unicoder"]
    assert "useradd --uid 1000 --create-home unicoder" in DOCKERFILE


def test_gpu_file_changes_a_service_that_exists() -> None:
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) <= set(SERVICES)


def test_installer_is_the_pinned_one_of_make() -> None:
    pinned = re.search(r"^UV := (\S+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert pinned
    assert pinned[1] in (DOCKER / "install.sh").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_cpu_list_has_no_cuda_package_and_loses_no_other() -> None:
    """What install.sh greps, on the pinned list: torch's two, the rest, and the packages of CUDA left out."""
    patterns = re.findall(r"grep -Ev? '([^']+)' requirements.txt", (DOCKER / "install.sh").read_text())
    lines = re.findall(r"^[a-z].*==.*$", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    torch = [line for line in lines if re.match(patterns[0], line)]
    others = [line for line in lines if not re.match(patterns[1], line)]
    assert [line.split("==")[0] for line in torch] == ["torch", "torchvision"]
    left_out = set(lines) - set(torch) - set(others)
    assert left_out
    assert all(line.startswith(("nvidia-", "cuda-", "triton==")) for line in left_out)
    assert not [line for line in others if line.startswith(("nvidia-", "cuda-", "triton"))]
