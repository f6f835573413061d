"""What is kept is a complete, upright RGB JPEG; what cannot be that ends as a named outcome."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.config import DownloadConfig
from tasks.images import PictureError, accept_picture
from tasks.records import Outcome

# Ours are set once; pytest takes them away between tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

DATA = Path(__file__).parents[3] / "../shared/data"
EXIF = DATA / "exif_orientation"
ODD = DATA / "pillow_odd_images"
CONFIG = DownloadConfig(min_side=1)
RED, BLUE = (250, 10, 10), (10, 10, 250)


def two_halves(width: int = 64, height: int = 48) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, format_: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def decoded(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    assert image.getexif().get(0x0112, 1) == 1
    return image


def near(pixel: object, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(pixel, dtype=int) - colour).max() < 20)


def outcome_of(content: bytes, config: DownloadConfig = CONFIG) -> Outcome:
    with pytest.raises(PictureError) as caught:
        accept_picture(content, config)
    assert caught.value.detail
    return caught.value.outcome


def test_good_jpeg_keeps_its_bytes() -> None:
    content = encoded(two_halves(), quality=71)
    assert accept_picture(content, CONFIG) == (content, (64, 48))


@pytest.mark.parametrize("progressive", [False, True])
def test_larger_picture_is_shrunk_to_the_short_side(progressive: bool) -> None:
    content = encoded(two_halves(1200, 900), progressive=progressive)
    jpeg, size = accept_picture(content, CONFIG.model_copy(update={"short_side": 90}))
    assert size == (120, 90) == decoded(jpeg).size
    assert near(decoded(jpeg).getpixel((10, 45)), RED)
    assert near(decoded(jpeg).getpixel((110, 45)), BLUE)


def test_no_short_side_keeps_every_size() -> None:
    content = encoded(two_halves(1200, 900))
    assert accept_picture(content, CONFIG.model_copy(update={"short_side": None}))[0] == content


def test_small_picture_is_not_enlarged() -> None:
    jpeg, size = accept_picture(encoded(two_halves(64, 48), "PNG"), CONFIG)
    assert size == (64, 48) == decoded(jpeg).size


@pytest.mark.parametrize(
    ("orientation", "size", "red_at", "blue_at"),
    [
        (1, (64, 48), (4, 24), (60, 24)),
        (2, (64, 48), (60, 24), (4, 24)),
        (3, (64, 48), (60, 24), (4, 24)),
        (4, (64, 48), (4, 24), (60, 24)),
        (5, (48, 64), (24, 4), (24, 60)),
        (6, (48, 64), (24, 4), (24, 60)),
        (7, (48, 64), (24, 60), (24, 4)),
        (8, (48, 64), (24, 60), (24, 4)),
        (99, (64, 48), (4, 24), (60, 24)),
    ],
)
def test_picture_is_set_upright(
    orientation: int, size: tuple[int, int], red_at: tuple[int, int], blue_at: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg, found = accept_picture(encoded(two_halves(), exif=exif), CONFIG)
    assert found == size
    if orientation in range(1, 9):
        assert decoded(jpeg).size == size
    picture = Image.open(io.BytesIO(jpeg))
    assert near(picture.getpixel(red_at), RED)
    assert near(picture.getpixel(blue_at), BLUE)


def test_transparent_pixels_become_white() -> None:
    image = two_halves().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    jpeg, _ = accept_picture(encoded(image, "PNG"), CONFIG)
    assert near(decoded(jpeg).getpixel((4, 24)), (255, 255, 255))
    assert near(decoded(jpeg).getpixel((60, 24)), BLUE)


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "LA"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    format_ = "JPEG" if mode in ("CMYK", "L") else "PNG"
    jpeg, size = accept_picture(encoded(two_halves().convert(mode), format_), CONFIG)
    assert decoded(jpeg).size == size == (64, 48)


def test_cmyk_keeps_its_colours() -> None:
    jpeg, _ = accept_picture(encoded(two_halves().convert("CMYK"), quality=95), CONFIG)
    assert near(decoded(jpeg).getpixel((4, 24)), RED)


def test_16_bit_grey_keeps_its_brightness() -> None:
    ramp = np.repeat(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16), 24, axis=0).repeat(16, axis=1)
    jpeg, _ = accept_picture(encoded(Image.fromarray(ramp), "PNG"), CONFIG)
    levels = [decoded(jpeg).getpixel((x, 12)) for x in (8, 24, 40)]
    assert all(near(level, (want,) * 3) for level, want in zip(levels, (0, 128, 255), strict=True))


def test_first_frame_of_an_animation_is_kept() -> None:
    content = encoded(
        Image.new("RGB", (40, 40), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40), BLUE)]
    )
    jpeg, _ = accept_picture(content, CONFIG)
    assert near(decoded(jpeg).getpixel((20, 20)), RED)


def test_bomb_is_refused_from_its_header_alone() -> None:
    content = encoded(Image.new("L", (4000, 4000)), "PNG")
    config = CONFIG.model_copy(update={"max_pixels": 15_999_999})
    assert outcome_of(content[:64], config) is Outcome.BOMB  # only the header is there to be read
    assert outcome_of(content, config) is Outcome.BOMB


def test_picture_longer_than_a_jpeg_can_be_is_refused() -> None:
    assert outcome_of(encoded(Image.new("L", (70_000, 1)), "PNG")) is Outcome.BOMB


def test_tiny_picture_is_too_small() -> None:
    config = CONFIG.model_copy(update={"min_side": 32})
    assert outcome_of(encoded(two_halves(200, 31)), config) is Outcome.TOO_SMALL
    assert accept_picture(encoded(two_halves(200, 32)), config)[1] == (200, 32)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [16, 200, 2000])
@pytest.mark.parametrize("short_side", [None, 64])
def test_cut_jpeg_is_truncated_whether_kept_or_shrunk(progressive: bool, missing: int, short_side: int | None) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), progressive=progressive)
    config = CONFIG.model_copy(update={"short_side": short_side})
    assert outcome_of(content[:-missing], config) is Outcome.TRUNCATED
    # A server that ends every answer properly does not make the picture whole.
    assert accept_picture(content, config)


def test_jpeg_with_bytes_after_its_end_is_made_clean() -> None:
    content = encoded(two_halves()) + b"appended by a camera"
    jpeg, size = accept_picture(content, CONFIG)
    assert jpeg != content
    assert jpeg.endswith(b"\xff\xd9")
    assert decoded(jpeg).size == size


def test_cut_png_is_truncated() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    assert outcome_of(encoded(Image.fromarray(noise), "PNG")[:-4000]) is Outcome.TRUNCATED


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "empty body"),
        (b"\n<!DOCTYPE html><html>not here</html>", "a web page"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "an SVG drawing"),
        (b'{"error": "gone"}', "JSON"),
        (b"\xff\xd8\xff", "damaged picture header"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown content"),
    ],
)
def test_body_that_is_no_picture_is_described(content: bytes, detail: str) -> None:
    with pytest.raises(PictureError) as caught:
        accept_picture(content, CONFIG)
    assert (caught.value.outcome, caught.value.detail) == (Outcome.NOT_AN_IMAGE, detail)


def test_damaged_files_end_as_outcomes_never_as_crashes() -> None:
    rng = np.random.default_rng(7)
    seeds = [encoded(two_halves(), format_) for format_ in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]
    seen = set()
    for round_ in range(600):
        body = bytearray(seeds[round_ % len(seeds)])
        for _ in range(int(rng.integers(1, 6))):
            body[int(rng.integers(0, min(len(body), 200)))] = int(rng.integers(0, 256))
        try:
            jpeg, size = accept_picture(bytes(body), CONFIG.model_copy(update={"max_pixels": 1_000_000}))
        except PictureError as error:
            seen.add(error.outcome)
        else:
            assert decoded(jpeg).size == size
    assert {Outcome.NOT_AN_IMAGE, Outcome.TRUNCATED, Outcome.BOMB} <= seen


@pytest.mark.skipif(not EXIF.exists(), reason="the EXIF orientation photographs are not beside the checkout")
@pytest.mark.parametrize("series", ["Landscape", "Portrait"])
def test_photographs_of_every_orientation_look_alike(series: str) -> None:
    small = CONFIG.model_copy(update={"short_side": 60})
    pictures = [decoded(accept_picture((EXIF / f"{series}_{n}.jpg").read_bytes(), small)[0]) for n in range(1, 9)]
    first = np.asarray(pictures[0], dtype=float)
    for picture in pictures[1:]:
        assert picture.size == pictures[0].size
        # The photographs were saved one by one; a wrong turn differs by 50 and more.
        assert np.abs(np.asarray(picture, dtype=float) - first).mean() < 12


@pytest.mark.skipif(not ODD.exists(), reason="the odd image files are not beside the checkout")
def test_odd_files_end_as_pictures_or_outcomes() -> None:
    ends: dict[str, str] = {}
    for path in sorted(ODD.iterdir()):
        try:
            jpeg, size = accept_picture(path.read_bytes(), CONFIG)
        except PictureError as error:
            ends[path.name] = error.outcome.value
        else:
            assert decoded(jpeg).size == size, path.name
            ends[path.name] = "ok"
    assert len(ends) == 122
    wanted = {
        "truncated_jpeg.jpg": "truncated",
        "truncated_image.png": "truncated",
        "decompression_bomb.gif": "bomb",
        "png_decompression_dos.png": "not_an_image",
        "hopper.psd": "not_an_image",
        "drawing.emf": "not_an_image",
        "pil_sample_cmyk.jpg": "ok",
        "tiff_16bit_RGB.tiff": "ok",
        "hopper_bad_exif.jpg": "ok",
        "frozenpond.mpo": "ok",
        "exif-dpi-zerodivision.jpg": "ok",
    }
    assert {name: ends[name] for name in wanted} == wanted
