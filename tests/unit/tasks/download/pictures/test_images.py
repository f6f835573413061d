"""What is kept is a complete, upright RGB JPEG; what cannot be that ends as a named outcome."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tasks.download.config import DownloadConfig
from tasks.download.pictures.images import PictureError, accept_picture
from tasks.records import Outcome

# Ours are set once; pytest takes them away between tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

DATA = Path(__file__).parents[5] / "../shared/data"
EXIF = DATA / "exif_orientation"
ODD = DATA / "pillow_odd_images"
CONFIG = DownloadConfig(min_side=1)
# All 122 files beside the checkout; those not named are converted.
CONVERTED = 71
ODD_ENDS = {
    "not_an_image": """
        broken.png cross_scan_line_truncated.tga decompression_bomb.ico drawing.emf drawing.wmf hopper.ico
        hopper.psd hopper_unknown_pixel_mode.tif negative_layer_count.psd negative_size.ppm
        negative_top_left_layer.psd no_cursors.cur oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif
        oom-8ed3316a4109213ca96fb8a256a0bfefdece1461.icns seek_too_large.tif
        zero_height.j2k zero_mask_totals.dds zero_width.gif
    """,
    "truncated": """
        broken_data_stream.png crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif
        crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif crash-2020-10-test.tif truncated_end_chunk.png
        truncated_image.png
    """,
    "kept": """
        broken_exif_dpi.jpg exif-200dpcm.jpg exif-72dpi-int.jpg exif-dpi-zerodivision.jpg exif-ifd-offset.jpg
        exif_gps.jpg flower.jpg flower2.jpg hopper.jpg hopper_16bit_qtables.jpg icc_profile_big.jpg
        invalid-exif-without-x-resolution.jpg invalid-exif.jpg no-dpi-in-exif.jpg photoshop-200dpi-broken.jpg
        photoshop-200dpi.jpg pil_sample_rgb.jpg rgb.jpg truncated_app14.jpg truncated_exif_dpi.jpg
    """,
    "bomb": """
        decompression_bomb.gif
    """,
    "ended": """
        truncated_jpeg.jpg
    """,
    "cut": """
        frozenpond.mpo sugarshack.mpo sugarshack_bad_mpo_header.jpg sugarshack_ifd_offset.mpo
        sugarshack_no_data.mpo
    """,
}
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
    assert image.format in ("JPEG", "MPO")  # An MPO is a JPEG whose header speaks of a second picture.
    assert image.mode == "RGB"
    assert image.getexif().get(0x0112, 1) == 1
    return image


def boxes(brand: bytes, compatible: bytes) -> bytes:
    """The start of a file such as a telephone's: boxes that say what it is, and one of 100 bytes."""
    head = b"ftyp" + brand + bytes(4) + compatible
    return struct.pack(">I", 4 + len(head)) + head + struct.pack(">I", 108) + b"mdat" + bytes(100)


def chunk(kind: bytes, body: bytes, crc: int = 0) -> bytes:
    """A chunk of a PNG; its checksum is off by `crc`."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ crc)


def png(depth: int, kind: int, rows: list[bytes], width: int, *more: bytes) -> bytes:
    """A PNG of raw rows, with more chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


def with_chunk(content: bytes, more: bytes, last: bool = False) -> bytes:
    """A PNG with another chunk, behind its header or before its end."""
    at = len(content) - 12 if last else 33
    return content[:at] + more + content[at:]


def tiff(samples: np.ndarray, kind: int = 1, photometric: int = 1, extra: int | None = None) -> bytes:
    """An uncompressed TIFF of (height, width) or (height, width, bands) samples, in their bits and byte order."""
    data, bands = samples.tobytes(), 1 if samples.ndim == 2 else samples.shape[2]
    bits = 8 * samples.itemsize
    order = ">" if samples.dtype.byteorder == ">" else "<"
    values = {256: (samples.shape[1],), 257: (samples.shape[0],), 258: bands * (bits,), 259: (1,), 262: (photometric,)}
    values |= {273: (8,), 277: (bands,), 278: (samples.shape[0],), 279: (len(data),), 339: bands * (kind,)}
    if extra is not None:
        values[338] = (extra,)
    behind = 8 + len(data) + 2 + 12 * len(values) + 4
    entries, longer = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        entries += struct.pack(f"{order}HHI", tag, 3, len(numbers))
        entries += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", behind + len(longer))
        longer += packed if len(packed) > 4 else b""
    head = struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(values)) + entries + bytes(4) + longer


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


def test_12_bit_grey_keeps_its_brightness() -> None:
    side, half = 16, b"\x80\x08\x00"  # two samples of 0x800, packed
    strip = half * (side * side // 2)
    values = {256: side, 257: side, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    tiff = struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + struct.pack("<H", len(values)) + entries + bytes(4)
    jpeg, _ = accept_picture(tiff, CONFIG)
    assert near(decoded(jpeg).getpixel((8, 8)), (128,) * 3)


RAMP = np.repeat(np.linspace(0, 1, 48)[None], 24, axis=0)


def levels(content: bytes) -> list[int]:
    """The brightness of a picture of `RAMP` at a tenth, half and nine tenths of its width."""
    picture = np.asarray(decoded(accept_picture(content, CONFIG)[0]).convert("L"))
    return [int(picture[12, x]) for x in (4, 24, 43)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff((RAMP * (2**32 - 1)).astype("<u4")), (21, 130, 233)),
        (tiff((RAMP * 65535).astype("<u2")), (21, 130, 233)),
        (tiff((RAMP * 65535).astype(">u2")), (21, 130, 233)),
        (tiff((RAMP * 65535).astype("<u2"), photometric=0), (234, 125, 22)),
        (tiff((RAMP * 255).astype("u1"), photometric=0), (234, 125, 22)),
        (b"P5 48 24 4095\n" + (RAMP * 4095).astype(">u2").tobytes(), (21, 130, 233)),
        (tiff(np.stack([RAMP * 127, RAMP * 0 + 127], -1).astype("u1"), extra=1), (138, 192, 244)),
        (tiff(np.stack([RAMP * 255, RAMP * 0 + 127], -1).astype("u1"), extra=2), (138, 192, 244)),
    ],
    ids=["32 bits", "16", "16 big-endian", "16, white is 0", "8, white is 0", "12 of 16", "times alpha", "with alpha"],
)
def test_grey_of_many_kinds_keeps_its_brightness(content: bytes, expected: tuple[int, int, int]) -> None:
    assert levels(content) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (tiff((RAMP * 255).astype("<u4")), "32-bit values that use none of the upper 8 bits have no known white"),
        (tiff((RAMP * 255).astype("<i4"), 2), "signed values have no known black and white"),
        (tiff((RAMP * 2**31 - 1).astype(">i4"), 2), "signed values have no known black and white"),
        (tiff((RAMP * 32767).astype("<i2"), 2), "signed values have no known black and white"),
        (tiff((RAMP * 127).astype("i1"), 2), "signed values have no known black and white"),
        (tiff(RAMP.astype("<f4"), 3), "floating-point values have no known white"),
        (tiff(RAMP.astype("<f8"), 3), "a TIFF that is damaged, or has pixels of a kind that is not read"),
        (b"Pf\n48 24\n-1.0\n" + RAMP.astype("<f4").tobytes(), "floating-point values have no known white"),
        (png(8, 3, 24 * [bytes(48)], 48), "there is no palette"),
    ],
)
def test_values_that_no_one_can_see_are_refused_not_made_black(content: bytes, why: str) -> None:
    with pytest.raises(PictureError, match=why) as caught:
        accept_picture(content, CONFIG)
    assert caught.value.outcome is Outcome.NOT_AN_IMAGE


@pytest.mark.parametrize(("depth", "value"), [(1, 0), (2, 1), (2, 2), (4, 7), (8, 100)])
def test_transparent_grey_of_few_bits_becomes_white(depth: int, value: int) -> None:
    """On the left the value that stands for nothing, on the right the next one."""
    per_byte = 8 // depth
    left, right = (sum(v << (depth * place) for place in range(per_byte)) for v in (value, value + 1))
    rows = 32 * [bytes(32 // per_byte * [left] + 32 // per_byte * [right])]
    picture = decoded(accept_picture(png(depth, 0, rows, 64, chunk(b"tRNS", struct.pack(">H", value))), CONFIG)[0])
    assert near(picture.getpixel((8, 16)), (255,) * 3)
    assert near(picture.getpixel((56, 16)), (255 * (value + 1) // (2**depth - 1),) * 3)


def test_16_bit_grey_of_the_transparent_value_becomes_white() -> None:
    samples = np.full((32, 32), 1000, np.uint16)
    samples[:, 16:] = 2000
    jpeg, _ = accept_picture(encoded(Image.fromarray(samples), "PNG", transparency=2000), CONFIG)
    assert near(decoded(jpeg).getpixel((4, 16)), (3,) * 3)
    assert near(decoded(jpeg).getpixel((28, 16)), (255,) * 3)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "AVIF"])
def test_first_frame_of_an_animation_is_kept(format_: str) -> None:
    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    content = encoded(
        Image.new("RGB", (40, 40), RED), format_, save_all=True, append_images=[Image.new("RGB", (40, 40), BLUE)]
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0, "quality": 95},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 2, "progressive": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_that_lacks_its_end_marker_only_is_whole(options: dict[str, Any], mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise).convert(mode), **options)
    whole = accept_picture(content, CONFIG)
    for cut in (content[:-2], content[:-1]):
        assert accept_picture(cut, CONFIG) == whole
    shrunk = CONFIG.model_copy(update={"short_side": 32})
    assert accept_picture(content[:-2], shrunk) == accept_picture(content, shrunk)
    assert outcome_of(content[:-300]) is Outcome.TRUNCATED
    for missing in range(3, 20):
        try:
            jpeg, _ = accept_picture(content[:-missing], CONFIG)
        except PictureError as error:
            assert error.outcome is Outcome.TRUNCATED
        else:  # What was missing filled up the last byte, or said that nothing more changes.
            assert np.array_equal(decoded(jpeg), decoded(whole[0]))


def test_jpeg_cut_between_its_parts_is_truncated() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    intervals = encoded(Image.fromarray(noise), restart_marker_rows=1)
    assert outcome_of(intervals[: intervals.rindex(b"\xff\xd1")]) is Outcome.TRUNCATED
    assert outcome_of(intervals[: intervals.rindex(b"\xff\xd1") + 2]) is Outcome.TRUNCATED
    scans = encoded(Image.fromarray(noise), progressive=True)
    for at in (match.start() for match in re.finditer(b"\xff\xda", scans)):
        assert outcome_of(scans[:at]) is Outcome.TRUNCATED


@pytest.mark.parametrize("behind", [b"\n", b"appended by a camera \xff\xd9", encoded(two_halves(32, 32))])
def test_jpeg_is_kept_up_to_its_own_end(behind: bytes) -> None:
    content = encoded(two_halves())
    assert accept_picture(content + behind, CONFIG) == (content, (64, 48))


def test_first_picture_of_a_phones_file_of_two_is_kept() -> None:
    content = encoded(two_halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48), BLUE)])
    jpeg, size = accept_picture(content, CONFIG)
    assert size == (64, 48)
    assert content.startswith(jpeg)
    assert content[len(jpeg) :].startswith(b"\xff\xd8")
    assert near(decoded(jpeg).getpixel((4, 24)), RED)


def test_end_marker_of_a_thumbnail_is_not_the_pictures() -> None:
    content = encoded(two_halves(), comment=encoded(two_halves(16, 16)))
    assert accept_picture(content, CONFIG)[0] == content


def test_cut_jpeg_is_truncated_though_a_whole_one_follows() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise))
    assert outcome_of(content[:-2000] + content) is Outcome.TRUNCATED


def test_jpeg_of_endless_scans_is_a_bomb() -> None:
    content = encoded(two_halves(), progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    assert accept_picture(content[:-2] + 50 * scan + content[-2:], CONFIG)
    assert outcome_of(content[:-2] + 1000 * scan + content[-2:]) is Outcome.BOMB


def test_cut_webp_is_truncated() -> None:
    content = encoded(two_halves(), "WEBP")
    assert outcome_of(content[:-10]) is Outcome.TRUNCATED


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
@pytest.mark.parametrize("missing", [10, 200])
def test_cut_avif_is_truncated(missing: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert outcome_of(encoded(Image.fromarray(noise), "AVIF")[:-missing]) is Outcome.TRUNCATED


def test_png_damaged_within_is_truncated_not_half_black() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), "PNG"))
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    assert outcome_of(bytes(content)) is Outcome.TRUNCATED


LONG = b"0123456789abcdef" * 150_000  # 2.4 MB
METADATA = {
    "zTXt": chunk(b"zTXt", b"note\0\0" + zlib.compress(LONG)),
    "tEXt": chunk(b"tEXt", b"note\0" + LONG),
    "iTXt": chunk(b"iTXt", b"note\0\0\0\0\0" + LONG),
    "packed iTXt": chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(LONG)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(20 * LONG)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LONG)),
    "huge iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(20 * LONG)),
    "broken iCCP": chunk(b"iCCP", b"profile\0"),
    "many": 90 * chunk(b"zTXt", b"note\0\0" + zlib.compress(LONG[:1_000_000])),
    "wrong checksum": chunk(b"tEXt", b"note\0text", crc=1),
    "wrong checksum of a profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x"), crc=1),
    "unknown packing": chunk(b"zTXt", b"note\0\7xxx"),
    "unknown": chunk(b"abCd", b"anything"),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_a_png_damages_no_picture(name: str, last: bool) -> None:
    plain = encoded(two_halves(), "PNG")
    assert accept_picture(with_chunk(plain, METADATA[name], last), CONFIG) == accept_picture(plain, CONFIG)


def test_large_profile_of_a_png_is_heeded() -> None:
    profile = swapped_profile().ljust(2_000_000, b"\0")
    profile = struct.pack(">I", len(profile)) + profile[4:]
    content = encoded(two_halves(), "PNG", icc_profile=profile)
    assert near(decoded(accept_picture(content, CONFIG)[0]).getpixel((4, 24)), (RED[1], RED[0], RED[2]))


def test_orientation_in_a_text_of_a_png_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    text = b"\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode())
    more = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for kept in (more, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)):
        assert accept_picture(with_chunk(encoded(two_halves(), "PNG"), kept), CONFIG)[1] == (48, 64)


def test_png_that_ends_with_its_pixels_is_whole() -> None:
    content = encoded(two_halves(), "PNG")
    for cut in (content[:-12], content[:-3], content[:-12] + chunk(b"tEXt", b"note\0" + bytes(90))[:40]):
        assert accept_picture(cut, CONFIG) == accept_picture(content, CONFIG)


def test_orientation_of_a_png_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg, size = accept_picture(encoded(two_halves(), "PNG", exif=exif), CONFIG)
    assert size == (48, 64)
    assert near(decoded(jpeg).getpixel((24, 4)), RED)


def test_shrunk_transparency_has_no_dark_fringe() -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 101, 200))
    jpeg, _ = accept_picture(encoded(image, "PNG"), CONFIG.model_copy(update={"short_side": 32}))
    assert np.asarray(decoded(jpeg)).min() > 250


def swapped_profile(space: bytes = b"RGB ") -> bytes:
    """An ICC profile of sRGB whose red and green have changed places."""

    def point(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in (x, y, z)))

    red, green, blue = point(0.3851, 0.7169, 0.0971), point(0.4360, 0.2225, 0.0139), point(0.1431, 0.0606, 0.7141)
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    tags = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue, b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma}
    tags[b"wtpt"] = point(0.9642, 1, 0.8249)
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(data), len(value))
        data += value
    d50 = struct.pack(">3i", 63190, 65536, 54061)
    header = struct.pack(">8xI4s4s4s12x4s28x12s48x", 0x02100000, b"mntr", space, b"XYZ ", b"acsp", d50)
    return struct.pack(">I", 128 + len(table + data)) + header[4:] + table + data


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_converted_picture_has_the_colours_its_profile_means(format_: str) -> None:
    jpeg, _ = accept_picture(encoded(two_halves(), format_, icc_profile=swapped_profile()), CONFIG)
    picture = decoded(jpeg)
    assert near(picture.getpixel((4, 24)), (RED[1], RED[0], RED[2]))
    assert near(picture.getpixel((60, 24)), BLUE)
    assert "icc_profile" not in picture.info


def test_kept_jpeg_keeps_its_profile() -> None:
    content = encoded(two_halves(), icc_profile=swapped_profile())
    assert accept_picture(content, CONFIG)[0] == content


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        swapped_profile(b"CMYK"),
        b"no profile",
    ],
    ids=["sRGB itself", "of other pixels", "broken"],
)
def test_profile_that_says_nothing_changes_nothing(profile: bytes) -> None:
    plain, _ = accept_picture(encoded(two_halves(), "PNG"), CONFIG)
    assert accept_picture(encoded(two_halves(), "PNG", icc_profile=profile), CONFIG)[0] == plain


def test_converted_picture_carries_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 3, "a description"
    jpeg, _ = accept_picture(encoded(two_halves(), exif=exif, comment=b"a comment"), CONFIG)
    assert decoded(jpeg).info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_comment_longer_than_a_jpeg_can_hold_is_dropped() -> None:
    jpeg, _ = accept_picture(encoded(two_halves().convert("P"), "GIF", comment=b"x" * 100_000), CONFIG)
    assert len(jpeg) < 10_000


@pytest.mark.slow("large pictures")
def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(encoded(Image.new("RGBA", (4000, 4000), RED), "PNG", compress_level=1))
    program = """
        import re, sys
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from tasks.download.config import DownloadConfig
        from tasks.download.pictures.images import accept_picture
        content = Path(sys.argv[1]).read_bytes()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: accept_picture(content, DownloadConfig()), range(4)))
        print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[5])
    # Each takes 64 MB of pixels and as much again to shrink them: four at once add 512.
    assert int(done.stdout) / 1000 < 420


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
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is not read here"),
        (boxes(b"heic", b"mif1heic"), "HEIC, which is not read here"),
        (boxes(b"mif1", b"mif1heic"), "HEIC, which is not read here"),
        (boxes(b"mif1", b"mif1heic")[:-3], "HEIC, which is not read here"),
        (boxes(b"msf1", b"msf1"), "HEIF, which is not read here"),
        (boxes(b"isom", b"isommp42"), "a film, which is not read here"),
        (b"\xff\x0a" + bytes(90), "JPEG XL, which is not read here"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + boxes(b"jxl ", b"jxl ")[:-2], "JPEG XL, which is not read here"),
        (b"8BPS\0\1", "a Photoshop file, which is not read here"),
        (b"%PDF-1.7", "a PDF, which is not read here"),
        (b"\x93NUMPY", "unknown content"),
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
def test_odd_files_end_as_they_always_did() -> None:
    ends: dict[str, set[str]] = {}
    for path in sorted(ODD.iterdir()):
        content = path.read_bytes()
        try:
            jpeg, size = accept_picture(content, CONFIG)
        except PictureError as error:
            ends.setdefault(error.outcome.value, set()).add(path.name)
        else:
            assert decoded(jpeg).size == size, path.name
            cut, ended = content.startswith(jpeg), jpeg in (content + b"\xff\xd9", content + b"\xd9")
            how = "kept" if jpeg == content else "cut" if cut else "ended" if ended else "converted"
            ends.setdefault(how, set()).add(path.name)
    assert len(ends.pop("converted")) == CONVERTED
    assert ends == {how: set(names.split()) for how, names in ODD_ENDS.items()}
