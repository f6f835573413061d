"""What reading the weights of every published program has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from model.errors import InputError
from model.families.config import EncoderConfig, Heads, Sizes
from model.families.model import VisionLanguageModel


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """The name with another beginning; None where no beginning is known."""
    return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), None)


def model_of_weights(
    weights: Mapping[str, Tensor],
    sizes: Sizes,
    sep_id: int,
    encoder: EncoderConfig,
    heads: Heads,
    extractor: str,
    their_name: Callable[[str], str | None],
    source: str,
    program: str,
) -> VisionLanguageModel:
    """A model of weights under our names, in evaluation mode.

    Args:
        their_name: the published program's name of a weight; None where it has none. For messages.
        source: what to call the weights, such as their file.
        program: whose they are, such as UNITER.

    Raises:
        InputError: a weight is missing, or does not fit the others.
    """
    with torch.device("meta"):
        model = VisionLanguageModel(
            *sizes,
            sep_id=sep_id,
            encoder=encoder.model_dump(mode="json"),
            extractor=extractor,
            heads={name: head.model_dump(mode="json") for name, head in heads.items()},
        )
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted(wanted.keys() | weights.keys()):
        found, shape = tuple(weights[name].shape) if name in weights else None, wanted.get(name)
        if found != shape:
            raise InputError(
                f"{source}: {their_name(name) or name} is {found or 'absent'}, but by its other weights it should be "
                f"{shape or 'absent'}; name a whole checkpoint of {program}'s"
            )
    model.load_state_dict({name: value.contiguous() for name, value in weights.items()}, assign=True)
    return model.requires_grad_(True).eval()
