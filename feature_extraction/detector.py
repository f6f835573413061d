"""The interface of a detector, and Detectron2 behind it: the only importer of Detectron2.

Every detector here gives a region the vector its classifier saw, so the feature is pooled at the proposal, as in every
published Visual Genome extractor, while the box is the refined one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from feature_extraction.config import ExtractorConfig
from feature_extraction.selection import Float, select_regions
from feature_extraction.vocabulary import check_length, read_vocabulary

if TYPE_CHECKING:
    import torch

DETECTRON2_MISSING = (
    "extractor.backend='detectron2' needs Detectron2, which is not installed; after the requirements, run: "
    "uv pip install --no-build-isolation-package detectron2 '.[detectron2]'"
)
RES5_CHUNK = 512
"""Most proposals that go through res5 at once: 1,000 of them would take 0.8 GB in fp32 before its first layer."""

Image = npt.NDArray[np.uint8]
"""A picture: (H, W, 3), red first."""


@dataclass(frozen=True)
class Detections:
    """Regions of one image, best score first; shapes as in `RegionSample`."""

    boxes: Float
    labels: npt.NDArray[np.int16]
    scores: Float
    background: Float
    features: Float


class Detector(Protocol):
    """Finds regions. `labels` names the foreground classes, `feature_dim` is D."""

    labels: tuple[str, ...]
    feature_dim: int

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Regions of each image, up to the config's max_regions; none is legal.

        All images have one shape: padding a smaller one would change its regions.

        Raises:
            ValueError: shapes differ, or the network gave something that is not finite.
        """


def load_detector(config: ExtractorConfig) -> Detector:
    """The detector that the config names, on its device.

    Raises:
        ValueError: model, weights or vocabulary are missing or do not fit each other, there is no such device, or
            the backend's package is not installed.
    """
    device = pick_device(config.device)
    if config.backend == "torchvision":
        from feature_extraction.torchvision_detector import TorchvisionDetector

        return TorchvisionDetector(config, device)
    return Detectron2Detector(config, device)


def pick_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:N; auto is the first GPU where there is one.

    Raises:
        ValueError: the name is none of these, or there is no such GPU.
    """
    import torch

    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"extractor.device={name!r} is no device; give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"extractor.device={name!r} is no device of ours; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f"extractor.device={name!r}, but this machine has {gpus} GPUs; give auto or cpu")
    return device


def check_shapes(images: Sequence[Image]) -> tuple[int, int]:
    """(height, width) of images that all have one shape.

    Raises:
        ValueError: there are none, their shapes differ, or they are not (H, W, 3) bytes.
    """
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"one detector call takes images of one shape, not {sorted(shapes)}")
    shape = shapes.pop()
    if len(shape) != 3 or shape[2] != 3 or any(image.dtype != np.uint8 for image in images):
        raise ValueError(f"a detector takes (H, W, 3) bytes, not {shape}")
    return shape[0], shape[1]


def keep_regions(
    probabilities: Float,
    background: Float,
    class_boxes: Float,
    vectors: torch.Tensor,
    size: tuple[int, int],
    config: ExtractorConfig,
) -> Detections:
    """Select regions by the config's rule, and fetch the vectors (P, D) of the kept proposals from their device."""
    kept = select_regions(
        probabilities,
        background,
        class_boxes,
        size,
        nms_threshold=config.nms_threshold,
        max_regions=config.max_regions,
        min_score=config.min_score,
        min_regions=config.min_regions,
    )
    features = vectors[kept.proposals].float().cpu().numpy()
    return Detections(kept.boxes, kept.labels, kept.scores, kept.background, features)


class Detectron2Detector:
    """A Faster R-CNN of Detectron2 with a C4 head (feature: mean of res5, 2048-d) or an FPN or DC5 one (1024-d).

    The network's own pieces run one after the other instead of its `inference`, which throws features away, decodes
    every class of every proposal and may return one proposal twice. Up to the proposals they are the same numbers.
    """

    def __init__(self, config: ExtractorConfig, device: torch.device) -> None:
        """Build the network and load every one of its weights.

        Weights may be a pickle (`.pkl`, older `.pth`), and a pickle is a program: load trusted files only.

        Raises:
            ValueError: Detectron2 is not installed; config, weights or vocabulary cannot be read or do not fit each
                other; or the network is not one of those above.
        """
        try:
            from detectron2.data.transforms import ResizeShortestEdge
            from detectron2.modeling import build_model
        except ImportError as error:
            raise _import_problem(error) from error

        cfg = _read_detectron2_config(config)
        cfg.MODEL.DEVICE = str(device)
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = config.num_proposals
        self._model = build_model(cfg).eval()
        self._is_c4, self.feature_dim = _head_kind(self._model, config.model)
        self._heads = self._model.roi_heads
        _load_all_weights(self._model, cfg.MODEL.WEIGHTS)
        self.labels = _detectron2_labels(cfg, config)
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._is_bgr = cfg.INPUT.FORMAT == "BGR"
        self._config = config

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Regions of images of equal shape; see `Detector.detect`."""
        import torch

        height, width = check_shapes(images)
        with torch.inference_mode():
            transform = self._resize.get_transform(images[0])
            inputs = []
            for image in images:
                channels = image[:, :, ::-1] if self._is_bgr else image
                resized = np.ascontiguousarray(transform.apply_image(channels).transpose(2, 0, 1))
                inputs.append({"image": torch.from_numpy(resized.astype(np.float32))})
            batch = self._model.preprocess_image(inputs)
            maps = self._model.backbone(batch.tensor)
            proposals, _ = self._model.proposal_generator(batch, maps, None)
            resized_height, resized_width = batch.image_sizes[0]
            x, y = width / resized_width, height / resized_height
            return [
                self._classify(
                    {name: one[place : place + 1] for name, one in maps.items()}, found, (x, y), (width, height)
                )
                for place, found in enumerate(proposals)
            ]

    def _classify(
        self, maps: dict[str, torch.Tensor], proposals: Any, scale: tuple[float, float], size: tuple[int, int]
    ) -> Detections:
        """Regions of one image, from its feature maps and its proposals (Detectron2 Instances).

        `scale` brings (x, y) from the resized image to the stored one of `size`; Detectron2 rounds each axis by itself.
        """
        vectors = self._vectors(maps, proposals.proposal_boxes)
        predictor = self._heads.box_predictor
        predictions = predictor(vectors)
        (probabilities,) = predictor.predict_probs(predictions, [proposals])
        (boxes,) = predictor.predict_boxes(predictions, [proposals])
        boxes = boxes.reshape(len(boxes), boxes.shape[1] // 4, 4) * boxes.new_tensor([*scale, *scale])
        return keep_regions(
            probabilities=probabilities[:, :-1].float().cpu().numpy(),
            background=probabilities[:, -1].float().cpu().numpy(),
            class_boxes=boxes.float().cpu().numpy(),
            vectors=vectors,
            size=size,
            config=self._config,
        )

    def _vectors(self, maps: dict[str, torch.Tensor], boxes: Any) -> torch.Tensor:
        """What the classifier sees of each proposal: (P, D)."""
        import torch

        heads = self._heads
        if not self._is_c4:
            return heads.box_head(heads.box_pooler([maps[name] for name in heads.box_in_features], [boxes]))
        inputs = [maps[name] for name in heads.in_features]
        chunks = [
            heads.res5(heads.pooler(inputs, [boxes[start : start + RES5_CHUNK]])).mean(dim=(2, 3))
            for start in range(0, len(boxes), RES5_CHUNK)
        ]
        return torch.cat(chunks) if chunks else inputs[0].new_zeros((0, self.feature_dim))


def _import_problem(error: ImportError) -> ValueError:
    if error.name == "detectron2":
        return ValueError(DETECTRON2_MISSING)
    return ValueError(
        f"Detectron2 is installed but cannot be imported ({error}); it needs setuptools<81, iopath<0.1.10"
    )


def _read_detectron2_config(config: ExtractorConfig) -> Any:
    """Detectron2's config node for `config.model`, with MODEL.WEIGHTS set to what is to be loaded."""
    from yaml import YAMLError

    try:
        from detectron2 import model_zoo
        from detectron2.config import get_cfg
    except ImportError as error:
        raise _import_problem(error) from error

    is_file = Path(config.model).is_file()
    try:
        if is_file:
            cfg = get_cfg()
            cfg.merge_from_file(config.model, allow_unsafe=False)
        else:
            cfg = model_zoo.get_config(config.model)
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError, YAMLError) as error:
        raise ValueError(
            f"extractor.model={config.model!r} is neither a Detectron2 config file nor in its model zoo ({error})"
        ) from error
    if config.weights is not None:
        cfg.MODEL.WEIGHTS = config.weights
    elif is_file:
        raise ValueError(
            f"extractor.weights is not set, and config file {config.model} has no default; give their path"
        )
    else:
        cfg.MODEL.WEIGHTS = model_zoo.get_checkpoint_url(config.model)
    return cfg


def _head_kind(model: Any, name: str) -> tuple[bool, int]:
    """(whether the box head is a C4 one, D). Raises ValueError for a network whose vectors we cannot take."""
    from detectron2.modeling import GeneralizedRCNN, StandardROIHeads
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads

    heads = getattr(model, "roi_heads", None)
    predictor = getattr(heads, "box_predictor", None)
    if (
        not isinstance(model, GeneralizedRCNN)
        or model.proposal_generator is None
        or not isinstance(predictor, FastRCNNOutputLayers)
        or predictor.use_sigmoid_ce  # it has no background class
    ):
        raise ValueError(
            f"extractor.model={name!r} builds a {type(model).__name__} with {type(heads).__name__}; "
            "give a Faster R-CNN with one box head and a softmax over classes and background"
        )
    if isinstance(heads, Res5ROIHeads):
        return True, int(heads.res5[-1].out_channels)
    if isinstance(heads, StandardROIHeads) and heads.box_head.output_shape.height is None:
        return False, int(heads.box_head.output_shape.channels)
    raise ValueError(
        f"extractor.model={name!r} has {type(heads).__name__}, whose box head gives no vector; give a C4 or FPN one"
    )


def _load_all_weights(model: Any, path: str) -> None:
    """Load weights, and refuse those that leave a part of the network random, which Detectron2 only warns about."""
    from detectron2.checkpoint import DetectionCheckpointer

    class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
        """Remembers what did not fit; the base class logs it and drops it."""

        problems: tuple[str, ...] = ()

        def _load_model(self, checkpoint: Any) -> Any:
            incompatible = super()._load_model(checkpoint)
            self.problems = (
                *(f"{key}: absent in the file" for key in incompatible.missing_keys),
                *(f"{key}: not in the model" for key in incompatible.unexpected_keys),
                *(
                    f"{key}: {tuple(found)} in the file, {tuple(wanted)} in the model"
                    for key, found, wanted in incompatible.incorrect_shapes
                ),
            )
            return incompatible

    checkpointer = Checkpointer(model)
    try:
        checkpointer.load(path)
    except Exception as error:  # unpickling damaged bytes can raise anything
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"weights {path} cannot be loaded ({reason}); give a model-zoo .pkl, or a .pth that holds tensors alone"
        ) from error
    if checkpointer.problems:
        raise ValueError(
            f"weights {path} do not fit the model: {len(checkpointer.problems)} keys differ, first "
            f"{checkpointer.problems[0]}; give the weights that were trained with this config"
        )


def _detectron2_labels(cfg: Any, config: ExtractorConfig) -> tuple[str, ...]:
    """Names of the foreground classes: the vocabulary's, else those of the data set that the config names."""
    from detectron2.data import MetadataCatalog

    num_classes = int(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    if config.vocabulary is not None:
        return check_length(read_vocabulary(Path(config.vocabulary)), num_classes, f"vocabulary {config.vocabulary}")
    for dataset in cfg.DATASETS.TRAIN:
        names = MetadataCatalog.get(dataset).get("thing_classes")
        if names is not None:
            return check_length(names, num_classes, f"Detectron2's data set {dataset}")
    raise ValueError(
        f"extractor.model={config.model!r} comes with no label names; set extractor.vocabulary to their file"
    )
