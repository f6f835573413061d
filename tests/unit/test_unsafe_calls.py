"""Nothing that is read can run code: of our own sources, every call that could do that is looked at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(
    path for room in ("flows", "tasks", "model", "feature_extraction") for path in (REPOSITORY / room).rglob("*.py")
)
FORBIDDEN = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "dill.load",
    "dill.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.hub.load",
    "torch.jit.load",
    "shutil.unpack_archive",
    "tempfile.mktemp",
}
FORBIDDEN_METHODS = {"extractall"}
OWN_WORKERS = {"tasks/workers/ray_actor.py", "tasks/workers/ray_workers.py"}
"""They read what the driver and its actors send each other through Ray, which speaks in pickles itself; no files."""
TRUSTED = {
    "not config.trust_weights",  # What the user has said of a file; False unless said.
    "not trusted",
}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def trouble(source: str) -> list[str]:
    """What of a source could run what it reads."""
    found = []
    for name, call in calls(source):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in FORBIDDEN or name.rpartition(".")[2] in FORBIDDEN_METHODS:
            found.append(name)
        if name == "torch.load" and given.get("weights_only") not in TRUSTED | {"True"}:
            found.append("torch.load without weights_only")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append(f"{name} with pickles")
        if given.get("shell", "False") != "False":
            found.append(f"{name} with a shell")
        if given.get("trust_remote_code", "False") != "False" or given.get("allow_unsafe", "False") != "False":
            found.append(f"{name} with foreign code")
    return found


def test_no_source_runs_what_it_reads() -> None:
    found = {str(path.relative_to(REPOSITORY)): trouble(path.read_text()) for path in SOURCES}
    calls = {path: set(names) for path, names in found.items() if names}
    assert calls == {path: {"pickle.loads"} for path in OWN_WORKERS}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(content)",
        "yaml.load(text, Loader)",
        "subprocess.run(command, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "cfg.merge_from_file(path, allow_unsafe=True)",
        "tar.extractall(folder)",
        "eval(text)",
    ],
)
def test_such_a_call_would_be_found(source: str) -> None:
    assert trouble(source)
