"""README, CONTRIBUTING and the pages of docs/: what they tell people to type exists, and so does what they name.

Pages whose commands are run by a test of their own are left to it (`TYPED_ELSEWHERE`); every other page that is added
falls under this file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.commands.app import app
from flows.params.recipes import recipe
from tasks.records import Outcome

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8")
    for path in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
}
TYPED_ELSEWHERE = {"docs/developers.md", "docs/operators.md", "docs/own-data.md", "docs/scale.md", "docs/tasks.md"}
"""By tests/docs/ and tests/flows/test_operators_page.py."""
MAKES_FILES = {"docs/developers.md"}
"""It names files that its own examples add; its test looks for them where they are made."""
PARTS = ("download", "extractor", "encoder", "pretrain", "finetune", "scoring", "loader")
ROOMS = "flows|tasks|model|feature_extraction|docker|docs|tests|examples"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> list[str]:
    """What a page types in a shell, without comments."""
    joined = (re.sub(r"\\\n\s*", "", block) for block in blocks(text, "sh"))
    return [line for block in joined for line in (one.split(" #")[0].strip() for one in block.splitlines()) if line]


def found(pick: Callable[[str], list[str]], without: set[str] | None = None) -> list[Any]:
    """(page, what was picked) for a parametrised test, each once."""
    pairs = [(page, one) for page, text in PAGES.items() if page not in (without or set()) for one in set(pick(text))]
    return [pytest.param(page, one, id=f"{page}: {one}") for page, one in sorted(pairs)]


def spans(text: str) -> list[str]:
    """What has backticks in the text, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def commands_of(text: str) -> list[str]:
    """Lines that start with our command, and those that a sentence or a table quotes with options."""
    quoted = [span for span in spans(text) if re.match(r"unicoder-vl [a-z]", span)]
    return [line for line in [*lines_of(text), *quoted] if re.match(r"(\.venv/bin/)?unicoder-vl ", line)]


def files_of(text: str) -> list[str]:
    return [span for span in spans(text) if re.fullmatch(rf"({ROOMS})/[\w/.-]*", span)]


def links_of(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:", link)]


def make_targets_of(text: str) -> list[str]:
    return re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)


def fields_of(text: str) -> list[str]:
    return [span for span in spans(text) if re.fullmatch(rf"({'|'.join(PARTS)})\.(?!html|json)\w+(\.\w+)*", span)]


def test_there_is_something_to_check() -> None:
    assert sum(line.startswith("make ") for line in lines_of(PAGES["README.md"])) == 2
    assert len(found(commands_of, TYPED_ELSEWHERE)) > 30
    assert len(found(files_of)) > 20 and len(found(links_of)) > 20 and len(found(fields_of)) > 10


def test_the_readme_is_read_in_minutes() -> None:
    assert len(PAGES["README.md"]) <= 10_000


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(links_of(PAGES["README.md"]))
    assert set(PAGES) - {"README.md"} <= linked


@pytest.mark.parametrize("page", sorted(page for page in PAGES if page.startswith("docs/")))
def test_every_page_begins_with_a_title_and_a_sentence(page: str) -> None:
    assert re.match(r"# [^\n]+\n\n[A-Z][^#|]+?\.\s", PAGES[page])


@pytest.mark.parametrize(("page", "line"), found(commands_of, TYPED_ELSEWHERE))
def test_the_command_line_takes_what_a_page_types(page: str, line: str) -> None:
    words = shlex.split(line.split(">")[0])
    command = typer.main.get_group(app).get_command(None, words[1])  # type: ignore[arg-type]
    assert command is not None
    if len(words) == 2 and line in spans(PAGES[page]):
        return  # The name of a command, in a sentence.
    within = getattr(command, "commands", {})
    if within:
        command, words = within[words[2]], words[1:]
    with command.make_context(words[1], words[2:]) as context:
        assert context.params


@pytest.mark.parametrize(("page", "target"), found(make_targets_of))
def test_every_make_target_exists(page: str, target: str) -> None:
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("page", "name"), found(files_of, MAKES_FILES))
def test_every_file_named_exists(page: str, name: str) -> None:
    assert (REPOSITORY / name).exists()


@pytest.mark.parametrize(("page", "link"), found(links_of))
def test_every_link_leads_somewhere(page: str, link: str) -> None:
    name, _, heading = link.partition("#")
    target = (REPOSITORY / page).parent / name if name else REPOSITORY / page
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "field"), found(fields_of))
def test_every_field_named_is_one(page: str, field: str) -> None:
    value: object = recipe("cc3m", "data")
    for name in field.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)


@pytest.mark.parametrize(("page", "block"), found(lambda text: blocks(text, "python"), TYPED_ELSEWHERE))
def test_python_on_a_page_compiles_and_what_it_imports_is_there(page: str, block: str) -> None:
    compile(block, page, "exec")
    for line in re.findall(r"^(?:from|import) .+$", block, re.MULTILINE):
        exec(line, {})


def test_the_page_on_downloads_has_every_outcome() -> None:
    page = PAGES["docs/download.md"]
    named = {span for row in re.findall(r"^\| .+$", page, re.MULTILINE) for span in re.findall(r"`(\w+)`", row)}
    assert {outcome.value for outcome in Outcome} <= named
    assert f"one of {len(Outcome)} outcomes" in page


def test_hooks_before_a_commit_are_those_of_make_check() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    hooks = [hook["entry"].split(" --")[0] for hook in repository["hooks"]]
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe_of_check = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[0]
    typed = [re.sub(r"( --check)? \.$", "", line.strip()) for line in recipe_of_check.splitlines()]
    assert hooks == [line.replace("$(BIN)", ".venv/bin") for line in typed]
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_the_detectron2_pin_is_the_only_one() -> None:
    pins = set(re.findall(r"detectron2@([0-9a-f]{40})", (REPOSITORY / "pyproject.toml").read_text()))
    assert len(pins) == 1


def test_requirements_name_no_address() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    assert len(lines) > 100
    assert not [line for line in lines if "://" in line or line.startswith("-")]
