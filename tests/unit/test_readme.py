"""What the README tells people to type exists, and so do the files that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from flows.commands.app import app

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SHELL = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.strip()
]


def test_there_is_something_to_check() -> None:
    assert any(line.startswith("make ") for line in SHELL)
    assert sum("unicoder-vl " in line for line in SHELL) >= 4


@pytest.mark.parametrize("line", [line for line in SHELL if "unicoder-vl " in line])
def test_the_command_line_takes_what_the_readme_types(line: str) -> None:
    words = shlex.split(line.split(">")[0])
    assert words[0].endswith("unicoder-vl")
    command = typer.main.get_group(app).get_command(None, words[1])  # type: ignore[arg-type]
    assert command is not None
    with command.make_context(words[1], words[2:]) as context:
        assert context.params


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:flows|tasks|model|feature_extraction|docker|tests)/[\w/.]*)`", README)))
)
def test_every_file_named_exists(name: str) -> None:
    assert (REPOSITORY / name).exists()


def test_the_detectron2_pin_is_the_only_one() -> None:
    pins = set(re.findall(r"detectron2@([0-9a-f]{40})", (REPOSITORY / "pyproject.toml").read_text()))
    assert len(pins) == 1


def test_requirements_name_no_address() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    assert len(lines) > 100
    assert not [line for line in lines if "://" in line or line.startswith("-")]
