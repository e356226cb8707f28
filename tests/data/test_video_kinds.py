"""Frames come as a player shows them: upright, with square pixels, in the right colours, on white."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.data.clips import READERS, encode, numbered, psnr
from videodit.data import video
from videodit.data.colour import GAMMA, TO_BT2020, WHITE, light_to_pq
from videodit.errors import InputError

needs_decord = pytest.mark.skipif("decord" not in READERS, reason="decord is not installed")
BARS = np.array([(200, 60, 30), (30, 160, 60), (40, 60, 180), (128, 128, 128), (220, 220, 220), (16, 16, 16)], np.uint8)


def quadrants(height: int = 48, width: int = 80) -> np.ndarray:
    """Three frames whose corners have four different colours."""
    image = np.empty((height, width, 3), np.uint8)
    for index, corner in enumerate(np.ndindex(2, 2)):
        rows = slice(corner[0] * height // 2, (corner[0] + 1) * height // 2)
        image[rows, corner[1] * width // 2 : (corner[1] + 1) * width // 2] = BARS[index]
    return np.stack([image] * 3)


def flat(colour: tuple[int, ...] | np.ndarray, height: int = 64, width: int = 64) -> np.ndarray:
    """Two frames of one colour, uint8."""
    return np.broadcast_to(np.array(colour, np.uint8), (2, height, width, len(colour))).copy()


def colour_of(path: Path, **request: Any) -> list[int]:
    return np.rint(video.read(path, **request)[0].mean(axis=(0, 1, 2))).astype(int).tolist()


def refused(path: Path, says: str) -> None:
    """decord gives no frame of it."""
    if "decord" in READERS:
        with pytest.raises(InputError, match=f"decord .*{says}.*use reader=av"):
            video.read(path, reader="decord")


# --- shape


@pytest.mark.parametrize("format", ["mp4", "matroska"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_frames_come_upright(tmp_path, format, mirrored, degrees):
    if mirrored and format == "matroska":
        format = "mov"
    path, upright = tmp_path / "clip", quadrants()
    # The track's matrix turns counterclockwise and then mirrors; what is stored is turned the other way.
    stored = np.rot90(upright[:, :, ::-1] if mirrored else upright, -degrees // 90, axes=(1, 2))
    turn = lambda track: track.set_display_rotation(degrees, hflip=mirrored)  # noqa: E731
    encode(path, stored, 25, "libx264", {"crf": "8"}, format, pixels="yuv444p", prepare=turn)
    info = video.probe(path)
    assert (info.height, info.width, info.pixel_aspect) == (48, 80, 1.0)
    if not mirrored:
        assert info.rotation == -degrees % 360
    whole, _ = video.read(path)
    assert whole.shape == upright.shape and psnr(whole, upright) > 35
    assert np.array_equal(video.read(path, first=1, frames=1)[0][0], whole[1])
    if degrees or mirrored:
        refused(path, "upright")


def test_a_slanted_matrix_is_left_alone(tmp_path):
    encode(tmp_path / "clip.mp4", quadrants(), 25, "libx264", {}, "mp4", prepare=lambda t: t.set_display_rotation(45))
    info = video.probe(tmp_path / "clip.mp4")
    assert (info.height, info.width, info.rotation) == (48, 80, 0)
    assert psnr(video.read(tmp_path / "clip.mp4")[0], quadrants()) > 25


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(4, 3), 107), (Fraction(2, 3), 53), (Fraction(1, 40), 80)])
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_come_square(tmp_path, aspect, width, turned):
    def prepare(track: Any) -> None:
        track.codec_context.sample_aspect_ratio = aspect
        if turned:
            track.set_display_rotation(90)

    path = tmp_path / "clip.mp4"
    encode(path, quadrants(), 25, "libx264", {"crf": "8"}, "mp4", pixels="yuv444p", prepare=prepare)
    info = video.probe(path)
    assert (info.height, info.width) == ((width, 48) if turned else (48, width))
    assert info.pixel_aspect == pytest.approx(float(aspect) if width != 80 else 1)
    image = video.read(path)[0][0]
    assert image.shape == (info.height, info.width, 3)
    stored = np.rot90(image, -1) if turned else image
    for index, (row, column) in enumerate(((2, 2), (2, -3), (-3, 2), (-3, -3))):
        assert np.abs(stored[row, column].astype(int) - BARS[index]).max() < 12
    if width != 80 and not turned:
        refused(path, "square")


# --- colour


@pytest.mark.parametrize(("height", "matrix"), [(480, "ITU601"), (720, "ITU709"), (1080, "ITU709")])
def test_an_unlabelled_matrix_is_what_players_take_it_for(tmp_path, height, matrix):
    path, colour = tmp_path / "clip.mp4", BARS[0]
    convert = {"dst_colorspace": matrix, "dst_color_range": "MPEG"}

    def unlabelled(track: Any) -> None:
        track.codec_context.colorspace = 2

    encode(path, flat(colour, height, 64), 25, "libx264", {}, "mp4", prepare=unlabelled, convert=convert)
    assert np.abs(np.array(colour_of(path)) - colour).max() <= 3
    if height >= 720:
        refused(path, "unlabelled")
    elif "decord" in READERS:
        assert np.array_equal(video.read(path)[0], video.read(path, reader="decord")[0])


@pytest.mark.parametrize("matrix", ["ITU601", "ITU709", "BT2020"])
@pytest.mark.parametrize("range_", ["MPEG", "JPEG"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv444p", "yuv422p10le"])
def test_labelled_colours_come_back(tmp_path, matrix, range_, pixels):
    convert = {"dst_colorspace": matrix, "dst_color_range": range_}

    def label(track: Any) -> None:
        track.codec_context.colorspace = {"ITU601": 6, "ITU709": 1, "BT2020": 9}[matrix]
        track.codec_context.color_range = {"MPEG": 1, "JPEG": 2}[range_]

    for index, colour in enumerate(BARS):
        path = tmp_path / f"{index}.mp4"
        encode(path, flat(colour), 25, "libx264", {"crf": "4"}, "mp4", pixels=pixels, prepare=label, convert=convert)
        assert np.abs(np.array(colour_of(path)) - colour).max() <= 3
        if "decord" in READERS:
            try:
                same = np.array_equal(video.read(path)[0], video.read(path, reader="decord")[0])
            except InputError as error:
                same = "use reader=av" in str(error) and (matrix == "BT2020" or "10" in pixels)
            assert same, "decord should give the same or refuse"


def test_more_bits_are_rounded(tmp_path):
    grey = np.broadcast_to((np.arange(256, dtype=np.uint16) * 257)[None, None, :, None], (2, 64, 256, 3)).copy()
    convert = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"}

    def label(track: Any) -> None:
        track.codec_context.colorspace, track.codec_context.color_range = 1, 1

    path = tmp_path / "clip.mkv"
    encode(path, grey, 25, "ffv1", {}, "matroska", pixels="yuv444p10le", prepare=label, convert=convert)
    info = video.probe(path)
    assert (info.bits, info.pixel_format, info.hdr, info.alpha) == (10, "yuv444p10le", None, False)
    ramp = video.read(path)[0][0, 0].astype(int)
    assert np.abs(ramp - np.arange(256)[:, None]).max() <= 1
    refused(path, "bits")


@pytest.mark.parametrize("range_", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize(
    ("codec", "pixels"),
    [(codec, pixels) for codec in ("ffv1", "libx264") for pixels in ("yuv420p10le", "yuv422p10le", "yuv444p10le")]
    + [("ffv1", "yuv420p12le"), ("ffv1", "yuv420p16le"), ("ffv1", "yuv420p"), ("ffv1", "yuva420p10le")],
)
def test_grey_of_any_bits_keeps_its_level(tmp_path, codec, pixels, range_):
    """Black is 0, white 255 (in 10 bits: 940 of limited range), and levels between are rounded."""
    bits = av.VideoFormat(pixels).components[0].bits
    levels = np.linspace(0, 255, 18).round().astype(int)
    low, high = (16 << (bits - 8), 235 << (bits - 8)) if range_ == 1 else (0, 2**bits - 1)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as file:
        track = file.add_stream(codec, rate=25, options={"crf": "0", "qp": "0"} if codec == "libx264" else {})
        track.width, track.height, track.pix_fmt = 64, 48, pixels
        track.codec_context.color_range, track.codec_context.colorspace = range_, 1
        for number, level in enumerate(levels):
            frame = av.VideoFrame(64, 48, pixels)
            for place, plane in enumerate(frame.planes):
                luma, opaque = low + (high - low) * level / 255, 2**bits - 1
                value = opaque if place == 3 else 1 << (bits - 1) if place else luma
                kind = np.uint16 if bits > 8 else np.uint8
                plane.update(np.full(plane.buffer_size // kind().itemsize, round(value), kind).tobytes())
            frame.color_range, frame.colorspace, frame.pts, frame.time_base = range_, 1, number, Fraction(1, 25)
            file.mux(track.encode(frame))
        file.mux(track.encode())
    frames = video.read(path)[0].astype(int)
    assert np.abs(frames - levels[:, None, None, None]).max() <= 1
    assert (frames[0] == 0).all() and (frames[-1] == 255).all()
    if bits > 8:
        refused(path, "rounds|drops alpha|cannot|does not")


def hdr(transfer: int, primaries: int = 9) -> Any:
    def label(track: Any) -> None:
        context = track.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = transfer, primaries, 9, 1

    return label


def in_pq(frames: np.ndarray) -> np.ndarray:
    """SDR frames, uint8 BT.709, within an HDR picture: uint16 PQ, BT.2020 (BT.2408's white)."""
    light = WHITE * (frames / 255) ** GAMMA @ TO_BT2020.T
    return np.rint(light_to_pq(light) * 65535).astype(np.uint16)


@pytest.mark.parametrize(("codec", "format"), [("libx265", "mp4"), ("ffv1", "matroska")])
def test_hdr_becomes_sdr(tmp_path, codec, format):
    path, convert = tmp_path / "clip", {"dst_colorspace": "BT2020", "dst_color_range": "MPEG"}
    # x265 leaves the first decoding times of a clip as short as this unset, unless it has no B-frames
    quiet = "log-level=none:frame-threads=1:pools=none:bframes=0"
    options = {"x265-params": quiet} if codec == "libx265" else {}
    for index, colour in enumerate([*BARS[:4], BARS[5]]):  # below the knee of the tone curve
        deep = in_pq(flat(colour))
        encode(path, deep, 25, codec, options, format, pixels="yuv420p10le", prepare=hdr(16), convert=convert)
        info = video.probe(path)
        assert (info.hdr, info.bits, info.pixel_format) == ("pq", 10, "yuv420p10le")
        assert np.abs(np.array(colour_of(path)) - colour).max() <= (6 if index != 0 else 16), colour
    refused(path, "HDR")


def test_hlg_white_is_bright_and_neutral(tmp_path):
    path = tmp_path / "clip.mkv"
    grey = np.full((2, 64, 64, 3), round(0.75 * 65535), np.uint16)  # BT.2408: HLG's reference white, 203 cd/m2
    convert = {"dst_colorspace": "BT2020", "dst_color_range": "MPEG"}
    encode(path, grey, 25, "ffv1", {}, "matroska", pixels="yuv420p10le", prepare=hdr(18), convert=convert)
    assert video.probe(path).hdr == "hlg"
    red, green, blue = colour_of(path)
    assert 220 < red < 245 and max(red, green, blue) - min(red, green, blue) <= 1


def test_wide_colours_without_hdr(tmp_path):
    """10-bit SDR in BT.2020's primaries: the same colours in other numbers."""
    path, colour = tmp_path / "clip.mkv", np.array(BARS[1])
    wide = np.rint(((colour / 255) ** GAMMA @ TO_BT2020.T) ** (1 / GAMMA) * 65535).astype(np.uint16)
    frames = np.broadcast_to(wide, (2, 64, 64, 3)).copy()
    convert = {"dst_colorspace": "BT2020", "dst_color_range": "MPEG"}
    encode(path, frames, 25, "ffv1", {}, "matroska", pixels="yuv444p10le", prepare=hdr(14), convert=convert)
    assert video.probe(path).hdr is None
    assert np.abs(np.array(colour_of(path)) - colour).max() <= 2


# --- alpha

ALPHA = [
    ("libvpx-vp9", "webm", {"auto-alt-ref": "0", "deadline": "realtime"}, "yuva420p"),
    ("libvpx", "webm", {"auto-alt-ref": "0", "deadline": "realtime"}, "yuva420p"),
    ("qtrle", "mov", {}, "argb"),
    ("png", "mov", {}, "rgba"),
    ("prores_ks", "mov", {}, "yuva444p10le"),
    ("ffv1", "matroska", {}, "yuva420p"),
]


@pytest.mark.parametrize(("codec", "format", "options", "pixels"), ALPHA, ids=[row[0] for row in ALPHA])
def test_transparent_parts_come_white(tmp_path, codec, format, options, pixels):
    clip = np.concatenate([numbered(30, 64, 64), np.full((30, 64, 64, 1), 255, np.uint8)], axis=-1)
    clip[:, :24, :, 3] = 0
    clip[:, 24:40, :, 3] = 128
    path = tmp_path / "clip"
    encode(path, clip, 25, codec, options, format, pixels=pixels)
    assert video.probe(path).alpha
    whole, _ = video.read(path)
    assert len(whole) == 30
    assert (whole[:, :20] >= 253).all()
    assert psnr(whole[:, 44:], clip[:, 44:, :, :3]) > 25
    blend = clip[:, 28:36, :, :3] * (128 / 255) + 127
    assert psnr(whole[:, 28:36], blend) > 22
    assert np.array_equal(video.read(path, first=21, frames=3)[0], whole[21:24])
    refused(path, "alpha" if format == "webm" or pixels == "yuva420p" else "")


# --- memory


@pytest.mark.parametrize("reader", READERS)
def test_memory_stays_flat_over_many_clips(tmp_path, reader):
    video.write(tmp_path / "clip.mp4", numbered(20, 128, 128), 25)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    sizes = []
    for turn in range(300):
        for _ in video.stream(tmp_path / "clip.mp4", start=0.2, frames=4, reader=reader):
            pass
        video.probe(tmp_path / "clip.mp4", exact=turn % 2 == 0)
        if turn % 100 == 99:
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 8 * 2**20, sizes
