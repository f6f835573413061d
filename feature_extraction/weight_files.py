"""Read weight files of either format, and refuse what is none.

Training programs wrap weights in several ways.

Torch and safetensors are imported where weights are read, so that asking what a file is costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_HEAD_BYTES = 512
_SHOWN = 40
_ARCHIVES = {
    b"\x1f\x8b": "is packed by gzip; unpack it",
    b"BZh": "is packed by bzip2; unpack it",
    b"\xfd7zXZ": "is packed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it",
    b"\x89HDF": "is HDF5, as Keras and TensorFlow write it; save the weights by torch or as safetensors",
}
_HOLDERS = ("state_dict", "model_state_dict", "model_state", "model", "module")
"""Under which of these names training programs keep the weights beside their optimiser and counts."""
_WRAPPERS = re.compile(r"^(module\.)+|(?:^|(?<=\.))_orig_mod\.(module\.)*")
"""What DistributedDataParallel and torch.compile put into the names of weights."""


class WeightsError(ValueError):
    """A file without usable weights.

    The message begins with a verb and says what to do; callers name the file. `asks_for` names what else than numbers
    it would call (MODULE.NAME).
    """

    def __init__(self, message: str, asks_for: str | None = None) -> None:
        super().__init__(message)
        self.asks_for = asks_for


def content_problem(path: Path) -> str | None:
    """What a file is instead of what its name says, with advice; None where nothing is wrong.

    Found are a Git LFS pointer, a web page, an empty file and zeros (downloads that failed), and packed files.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        return "is empty; get it again"
    if head.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer, not the file that it stands for; run `git lfs pull` in the folder it was cloned to"
        )
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|error)", head, re.IGNORECASE):
        return "is a web page, not the file; get it again by the link that downloads it"
    if not head.strip(b"\0"):
        return "begins with zeros alone, as a download leaves that was cut off; get it again"
    return next((what for mark, what in _ARCHIVES.items() if head.startswith(mark)), None)


def read_weights(path: Path, trusted: bool = False) -> dict[str, Tensor]:
    """Read weights from safetensors or `torch.save`, told apart by content, onto the CPU.

    Found, too, where a training program wrapped them: under `state_dict` or `model`, with `module.` before each name.

    Args:
        trusted: whether whatever a pickle asks for is called.

    Raises:
        WeightsError: it is something else, damaged, or more than numbers and not trusted.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if (problem := content_problem(path)) is not None:
            raise WeightsError(problem)
        if (text := _as_text(path)) is not None:
            raise WeightsError(f"is text, which begins with {text!r}; get the weights themselves")
        if _is_safetensors(path):
            content: Any = load_file(path)
        else:
            # Given a path, torch would judge by the name.
            with path.open("rb") as stream:
                content = torch.load(stream, map_location="cpu", weights_only=not trusted)
    except WeightsError:
        raise
    except Exception as error:  # unpickling damaged bytes can raise anything
        raise WeightsError(plain_reason(error), refused_name(error)) from error
    held = unwrap(content)
    if not isinstance(held, Mapping):
        raise WeightsError(f"holds a {type(held).__name__}, not weights by their names; save a state dict")
    tensors = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
    return {_WRAPPERS.sub("", name): value for name, value in tensors.items()}


def unwrap(content: Any) -> Any:
    """Find the state dict in what a training program saved: in a whole module, or under a usual name."""
    for _ in range(len(_HOLDERS)):
        if not isinstance(content, Mapping):
            # A trusted file may hold the module itself.
            return content.state_dict() if hasattr(content, "state_dict") else content
        held = (content[name] for name in _HOLDERS if name in content)
        inner = next((one for one in held if isinstance(one, Mapping) or hasattr(one, "state_dict")), None)
        if inner is None:
            return content
        content = inner
    return content


def without_prefix(weights: Mapping[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """The weights without the prefix before `anchor` in the one name ending with it."""
    found = [name for name in weights if name == anchor or name.endswith(f".{anchor}")]
    if len(found) != 1:
        return dict(weights)
    prefix = found[0].removesuffix(anchor)
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Raise WeightsError, naming the weight, unless all are finite and of a plain type."""
    import torch

    plain = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, value in weights.items():
        if value.dtype not in plain:
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsError(
                f"holds {name} as {kind}, which is no plain precision; use weights that are not quantised"
            )
        # A sum is five times as fast as a look at each value, and finite for nearly every file there is.
        if not torch.isfinite(value.sum()) and not (finite := torch.isfinite(value)).all():
            raise WeightsError(
                f"has {int((~finite).sum())} of {value.numel()} values of {name} that are no finite numbers; a "
                "training that failed leaves such weights, or a damaged file: get others"
            )


def refused_name(error: Exception) -> str | None:
    """The name (MODULE.NAME) that only a trusted weight file may call; None for any other error."""
    if (asked := getattr(error, "asks_for", None)) is not None:
        return str(asked)
    # torch.load's message is long.
    found = re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", str(error))
    return found[1] if found else None


def plain_reason(error: Exception) -> str:
    """Why a weight file cannot be read, with advice.

    Torch's advice to read it in a way that runs what it asks for is never passed on.
    """
    text = str(error)
    if (name := refused_name(error)) is not None:
        return f"is more than numbers: loading it would call {name}, which can be a program"
    if "TorchScript" in text:
        return "is a TorchScript program, not weights; save its state dict"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}); give the path of the file"
    if re.search(r"weights.only|safe_globals|torch\.load", text, re.IGNORECASE):
        return "cannot be read: it is damaged, or not weights that torch.save or safetensors wrote; get it again"
    reason = text.partition("\n")[0].partition(". ")[0].strip() or type(error).__name__
    return f"cannot be read, it is cut off or damaged ({reason}); get it again"


def _is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors: a JSON header's length and brace, else its name."""
    with path.open("rb") as stream:
        head = stream.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return True
    return path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80"))


def _as_text(path: Path) -> str | None:
    """The beginning of a text file, such as the error page of a server."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    # A pickle of the oldest protocol is text, too.
    text = head.decode("ascii", errors="replace")
    is_text = text.lstrip()[:1] in ("{", "[") and all(letter.isprintable() or letter.isspace() for letter in text)
    return text.strip().partition("\n")[0][:_SHOWN] if is_text else None
