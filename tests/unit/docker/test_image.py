"""The Dockerfile and its scripts without an engine: what they name exists here, and the parts agree."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from flows.operate import server

REPOSITORY = Path(__file__).parents[3]
DOCKER = REPOSITORY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
INSTALL = (DOCKER / "install.sh").read_text()
SCRIPTS = sorted(DOCKER.glob("*.sh"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def environment() -> dict[str, str]:
    """What the image sets for every process."""
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(block.replace("\\\n", " ")))


def pinned(path: Path) -> dict[str, list[Requirement]]:
    """Requirements by name; one that depends on the Python stands there twice."""
    found: dict[str, list[Requirement]] = {}
    for line in path.read_text().splitlines():
        if re.match(r"\w", line):
            requirement = Requirement(line)
            found.setdefault(requirement.name, []).append(requirement)
    return found


def test_dockerfile_copies_and_runs_what_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    present = {path for pattern in allowed for path in REPOSITORY.glob(pattern)}
    assert all(list(REPOSITORY.glob(pattern)) for pattern in allowed)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split() if source != "."}
    assert {REPOSITORY / source for source in sources} <= present
    named = set(re.findall(r"--requirement ([\w/]+\.txt)", INSTALL))
    assert sources == named | {"pyproject.toml", "docker/install.sh"}
    run = re.findall(r"^RUN bash (\S+)", DOCKERFILE, re.MULTILINE)
    assert {REPOSITORY / path for path in run} == set(SCRIPTS) <= present
    for room in ("flows", "tasks", "model", "feature_extraction"):
        assert room in allowed


def test_no_file_with_a_secret_reaches_the_image() -> None:
    """compose reads docker/.env; git does not see it, nor does a build."""
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert "/docker/.env" in ignored
    rules = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert rules[0] == "*"
    assert not [rule for rule in rules if rule[:1] == "!" and Path("docker/.env").match(rule[1:])]


def test_base_is_pinned_and_the_same_in_both_stages() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]
    base = re.search(r"^ARG BASE=python:(\d+\.\d+)\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert base
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(base[1])


def test_labels_are_those_of_the_project() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', DOCKERFILE))
    assert (labels["title"], labels["version"], labels["licenses"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["license"],
    )


def test_image_does_not_run_as_root_and_owns_what_it_writes() -> None:
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert "useradd --uid 1000 --user-group --create-home unicoder" in DOCKERFILE
    made = re.search(r"install -d -o unicoder -g unicoder (.*)", DOCKERFILE)
    worker = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["worker"]
    mounted = {re.sub(r":ro$", "", volume).rpartition(":")[2] for volume in worker["volumes"]}
    assert made and set(made[1].split()) == mounted - {"/tmp"}


def test_whatever_is_written_at_run_time_goes_to_the_cache_or_to_tmp() -> None:
    """Under a read-only root everything else fails: Prefect copies its page, libraries keep weights."""
    places = {name: value for name, value in environment().items() if re.search(r"CACHE|CONFIGDIR|_HOME|_DIR", name)}
    assert places.pop("UNICODER_VL_HOME") == "/app"
    assert set(places) >= {"XDG_CACHE_HOME", "FVCORE_CACHE", "PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY"}
    assert all(re.match(r"/(cache|tmp)(/|$)", place) for place in places.values())
    assert environment()["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "--compile-bytecode" in INSTALL
    assert "compileall" in (DOCKER / "install_package.sh").read_text()


def test_signals_reach_the_command() -> None:
    """An init is the first process, and commands are no shell's, which would keep SIGTERM to itself."""
    assert 'ENTRYPOINT ["tini", "--"]' in DOCKERFILE
    assert re.search(r"^CMD \[", DOCKERFILE, re.MULTILINE)


def test_telemetry_is_off_as_it_is_for_the_command_line() -> None:
    for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"):
        assert environment()[name] == server._QUIET[name]


def test_detectron2_is_in_the_image_unless_left_out() -> None:
    assert re.findall(r"^ARG DETECTRON2=(\d)", DOCKERFILE, re.MULTILINE) == ["1"]
    found = subprocess.run(
        ["bash", "-c", f"{re.findall(r'source=.*', INSTALL)[0]}; echo $source"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == PROJECT["optional-dependencies"]["detectron2"][0]


@pytest.mark.parametrize("name", ["detectron2", "kubernetes"])
def test_further_lists_are_pinned_and_change_no_pin(name: str) -> None:
    """They are installed without their dependencies, over what requirements.txt has."""
    further, first = pinned(DOCKER / f"{name}.txt"), pinned(REPOSITORY / "requirements.txt")
    assert further
    for shared in set(further) & set(first):
        assert {str(one.specifier) for one in further[shared]} == {str(one.specifier) for one in first[shared]}
    assert all(str(one.specifier).startswith("==") for requirements in further.values() for one in requirements)


def test_installer_is_the_pinned_one_of_make() -> None:
    of_make = re.search(r"^UV := (\S+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert of_make
    assert of_make[1] in INSTALL


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_cpu_list_has_no_cuda_package_and_loses_no_other() -> None:
    """What install.sh greps, on the pinned list: torch's two, the rest, and the packages of CUDA left out."""
    patterns = re.findall(r"grep -Ev? '([^']+)' requirements.txt", INSTALL)
    lines = re.findall(r"^[a-z].*==.*$", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    torch = [line for line in lines if re.match(patterns[0], line)]
    others = [line for line in lines if not re.match(patterns[1], line)]
    assert [line.split("==")[0] for line in torch] == ["torch", "torchvision"]
    left_out = set(lines) - set(torch) - set(others)
    assert left_out
    assert all(line.startswith(("nvidia-", "cuda-", "triton==")) for line in left_out)
    assert not [line for line in others if line.startswith(("nvidia-", "cuda-", "triton"))]
