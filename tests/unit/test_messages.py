"""Every command, option, file, module and field that our texts name exists: people do what a message says.

All texts of the rooms are read: messages, helps, descriptions of fields and docstrings. What an f-string fills in is
unknown here and is `GAP` in its text, so a name with a gap is checked as far as it goes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from flows.commands.app import app

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("flows", "tasks", "model", "feature_extraction")
SOURCES = sorted(path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
GAP = "\N{REPLACEMENT CHARACTER}"
FILES = "json|jsonl|html|parquet|py|tar|md|txt|log|lock|safetensors|zip|yaml|tsv|journal"
PYTHON_API = ("tasks/search/search.py", "tasks/webdatasets.py", "tasks/features/readable_shards.py")
"""Their functions are called from a user's own Python, and messages name their parameters."""
OTHERS_FIELDS = {"do_basic_tokenize", "num_hidden_layers", "tokenizer_class", "model.vocab", "sep"}
"""Of BERT's files, and Excel's line on top of a table."""
OTHERS_OPTIONS = {"--address", "--extra", "--no-build-isolation-package", "--ray"}
"""Of `ray start` and uv."""
OTHERS_NAMES = {"to_tuple", "with_epoch", "n_valid"}
"""WebDataset's methods, and a field of a record's header."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string in a source; of an f-string as a whole."""
    tree = ast.parse(source)
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part != node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


@cache
def options() -> dict[str, set[str]]:
    """Of each command, its options."""
    group = typer.main.get_group(app)
    context = typer.Context(group)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: options_of(command) for name, command in commands.items() if command is not None}


def options_of(command: Any) -> set[str]:
    """Those of a command, and of the commands in it."""
    own = {option for one in command.params for option in [*one.opts, *one.secondary_opts]}
    return {"--help"} | own.union(*map(options_of, getattr(command, "commands", {}).values()))


@cache
def all_options() -> set[str]:
    """Those of every command, and of the programs in the rooms that are started with `python -m`."""
    programs = (re.findall(r'add_argument\("(--[a-z-]+)"', path.read_text()) for path in SOURCES)
    return OTHERS_OPTIONS.union(*options().values(), *programs)


@cache
def models() -> list[type[BaseModel]]:
    """All pydantic models of the rooms whose fields somebody can set."""
    found: set[type[BaseModel]] = set()
    for path in SOURCES:
        if "BaseModel" in path.read_text() or "Config)" in path.read_text() or "Params)" in path.read_text():
            module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
            members = (value for value in vars(module).values() if inspect.isclass(value))
            found |= {
                value for value in members if issubclass(value, BaseModel) and value.__module__ == module.__name__
            }
    return sorted(found, key=lambda model: (model.__module__, model.__name__))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


@cache
def parts() -> dict[str, set[type[BaseModel]]]:
    """Fields that hold further fields, such as `encoder`: by name, the models that they hold."""
    found: dict[str, set[type[BaseModel]]] = {}
    for model in models():
        for name, field in model.model_fields.items():
            for held in models_in(field.annotation):
                found.setdefault(name, set()).add(held)
    return found


def has_field(model: type[BaseModel], names: list[str]) -> bool:
    """Whether the dotted name leads somewhere from this model."""
    field = model.model_fields.get(names[0])
    if field is None or len(names) == 1:
        return field is not None
    if isinstance(field.default, dict):
        return names[1:] == [name for name in names[1:] if name in field.default]
    return any(has_field(held, names[1:]) for held in models_in(field.annotation))


def is_field(name: str) -> bool:
    """Whether some model has this field; a dotted name begins with the name of a part, such as `encoder`."""
    first, *rest = name.split(".")
    if rest:
        return any(has_field(model, rest) for model in parts().get(first, ()))
    return any(first in model.model_fields for model in models())


@cache
def parameters() -> set[str]:
    """Of the functions that a user's own Python calls."""
    trees = (ast.parse((REPOSITORY / name).read_text()) for name in PYTHON_API)
    return {node.arg for tree in trees for node in ast.walk(tree) if isinstance(node, ast.arg)}


@cache
def identifiers() -> set[str]:
    """Every name in the rooms: of variables, fields, functions and modules, and strings of one word, such as keys."""
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names |= {
                value
                for key in ("id", "arg", "attr", "name", "value")
                for value in [getattr(node, key, 0)]
                if value and isinstance(value, str)
            }
    return names


def is_module(name: str) -> bool:
    """Whether the dotted name is a module of the rooms, a folder of them, or something in one."""
    path = REPOSITORY.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    return path.parent.with_suffix(".py").is_file() and bool(
        re.search(rf"^(?:def |class |)({path.name})\b", path.parent.with_suffix(".py").read_text(), re.MULTILINE)
    )


def wrong_names(text: str) -> list[str]:
    """What a text names and nothing has. A style sheet and what is no sentence, such as an argument, name nothing."""
    if "var(--" in text or "<!doctype" in text or not re.search(r"\s", text):
        return []
    wrong = []
    command = r"unicoder-vl ([a-z][\w-]*)"
    wrong += [f"unicoder-vl {name}" for name in re.findall(command, text) if name not in options()]

    for sentence in re.split(r"[;\n|]|\. ", text):
        for match in re.finditer(r"(?<![\w-])--[a-z][a-z-]*\b(?!\d)", sentence):
            named = [name for name in re.findall(command, sentence[: match.start()]) if name in options()]
            if match[0] not in (options()[named[-1]] if named else all_options()):
                wrong.append(" ".join([*named[-1:], match[0]]))

    makefile = (REPOSITORY / "Makefile").read_text()
    for name in re.findall(r"(?:`|\brun:? )make ([a-z-]+)", text):
        if not re.search(rf"^{name}:", makefile, re.MULTILINE):
            wrong.append(f"make {name}")

    folders = "|".join([*ROOMS, "docs", "tests", "docker", "examples"])
    for name in re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w", text):
        if not (REPOSITORY / name).exists():
            wrong.append(name)
    for name in re.findall(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})(?:\.\w+)+", text):
        if not re.fullmatch(rf".*\.(?:{FILES})", name) and not is_module(name) and name not in OTHERS_FIELDS:
            wrong.append(name)

    dotted = rf"(?<![\w./-])(?:{'|'.join(parts())})(?:\.[a-z_]+)+"
    for name in re.findall(dotted, text):
        of_this_function = name.startswith("config.") and is_field(name.removeprefix("config."))
        if not re.fullmatch(rf".*\.(?:{FILES})", name) and not of_this_function and not is_field(name):
            wrong.append(name)
    for name in re.findall(r"(?<![\w.?;-])([a-z][a-z_]+)=(?![\"'=])", text):
        if not is_field(name) and name not in parameters() | OTHERS_FIELDS:
            wrong.append(f"{name}=")
    for name in re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", text):
        if name not in identifiers() | OTHERS_NAMES:
            wrong.append(name)
    return wrong


def test_there_are_texts_fields_and_options_to_look_for() -> None:
    found = [text for path in SOURCES for _, text in texts(path.read_text())]
    assert sum("unicoder-vl" in text for text in found) > 50
    assert len(models()) > 30 and {"encoder", "extractor", "pretrain", "finetune", "scoring"} <= set(parts())
    assert len(options()) > 15 and all(len(names) > 1 for names in options().values())


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_in_a_text_is_one(room: str) -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in SOURCES
        if path.is_relative_to(REPOSITORY / room)
        for line, text in texts(path.read_text())
        for name in wrong_names(text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("give it a name; run: unicoder-vl scrape", "unicoder-vl scrape"),
        ("run: unicoder-vl history --of FILE", "history --of"),
        ("run `unicoder-vl verify --deep` or `unicoder-vl verify --deeper`", "verify --deeper"),
        ("give --shard-range", "--shard-range"),
        ("run: make rebuild", "make rebuild"),
        ("see docs/retrieval.md", "docs/retrieval.md"),
        ("see tasks/extract.py.", "tasks/extract.py"),
        ("python -m model.evaluate --config FILE", "model.evaluate"),
        ("see `tasks.workers.processes.Pool`", "tasks.workers.processes.Pool"),
        (f"encoder.max_boxes={GAP}; set less", "encoder.max_boxes"),
        ("set pretrain.optim.rate", "pretrain.optim.rate"),
        (f"max_boxes={GAP} is too many", "max_boxes="),
        ("see `read_every_row`", "read_every_row"),
        ("run: unicoder-vl extract --root ROOT --force", "extract --force"),
    ],
)
def test_a_wrong_name_would_be_found(text: str, name: str) -> None:
    assert wrong_names(text) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "run: unicoder-vl download --root ROOT --force",
        "run: unicoder-vl verify --deep; then unicoder-vl inspect --of ROOT",
        "see docs/own-data.md, tasks/storage/root.py and `tasks.workers.processes.WorkerPool`",
        f"extractor.max_regions={GAP} exceeds encoder.max_regions={GAP}; set pretrain.optim.learning_rate",
        "ROOT/download.json and extractor.json; python -m model.pretrain --config job.json; `make test`",
    ],
)
def test_names_that_exist_pass(text: str) -> None:
    assert wrong_names(text) == []


def test_an_f_string_is_read_as_one_text() -> None:
    assert list(texts('raise E(f"{a}: run " "x --set " f"{b}.steps")')) == [(1, f"{GAP}: run x --set {GAP}.steps")]
