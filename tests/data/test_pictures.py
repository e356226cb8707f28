"""Pictures are clips: of one frame, or of as many as move, each shown for its own time."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from tests.data.clips import READERS, numbered, numbers, psnr, smooth
from videodit.data import video
from videodit.errors import InputError

STILLS = ["png", "jpeg", "webp", "bmp", "tiff", "gif", "ppm"]
MOVING = {
    "webp": {"save_all": True, "lossless": True},
    "gif": {"save_all": True, "disposal": 2},
    "png": {"save_all": True},
}
DURATIONS = [40, 120, 200, 50, 90, 300, 60, 70]  # milliseconds


def colours() -> np.ndarray:
    """A picture (48,80,3) whose corners differ."""
    image = smooth(1, 48, 80)[0]
    image[:12, :12], image[-12:, :12] = (220, 30, 30), (30, 30, 220)
    return image


def animation(path: Path, kind: str, count: int = 8, **options: Any) -> np.ndarray:
    """Write numbered frames with DURATIONS."""
    frames = numbered(count, 32, 64)
    first, *others = (Image.fromarray(image) for image in frames)
    options = MOVING[kind] | {"duration": DURATIONS[:count]} | options
    first.save(path, format=kind, append_images=others, **options)
    return frames


@pytest.mark.parametrize("kind", STILLS + ["avif"] * features.check("avif") + ["jpeg2000"] * features.check("jpg_2000"))
@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_a_still_is_a_clip_of_one_frame_whatever_its_name(tmp_path, kind, suffix):
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(colours()).save(path, format=kind, **({"lossless": True} if kind == "webp" else {}))
    info = video.probe(path)
    assert (info.frames, info.height, info.width, info.codec, info.rotation) == (1, 48, 80, kind, 0)
    assert (info.hdr, info.variable, info.alpha, info.bits) == (None, False, False, 8)
    frames, _ = video.read(path)
    assert frames.shape == (1, 48, 80, 3) and frames.dtype == np.uint8
    assert psnr(frames[0], colours()) > (26 if kind in ("jpeg", "gif", "avif") else 90)
    assert video.times(path).tolist() == [0.0]
    assert len(list(video.stream(path, first=0, frames=5))) == len(list(video.stream(path, fps=8))) == 1
    if "decord" in READERS:
        with pytest.raises(InputError, match="use reader=av"):
            video.read(path, reader="decord")


def test_a_video_with_a_pictures_name(tmp_path):
    for name in ("clip.png", "clip.gif", "frame%03d.jpg", "clip.webp"):
        video.write(tmp_path / "clip.mp4", numbered(9), 8)
        (tmp_path / "clip.mp4").rename(tmp_path / name)
        assert numbers(video.read(tmp_path / name)[0]) == list(range(9))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_exif_orientations(tmp_path, kind, orientation):
    path, exif = tmp_path / "picture", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours()).save(path, format=kind, exif=exif)
    quarters = {3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}.get(orientation, 0)
    upright = {  # as the standard words them: where the stored row 0 and column 0 are shown
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.transpose(1, 0, 2),
        6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
        7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda image: image.transpose(1, 0, 2)[::-1],
    }[orientation](colours())
    info, (image,) = video.probe(path), video.read(path)[0]
    assert (info.height, info.width) == image.shape[:2] == upright.shape[:2]
    assert psnr(image, upright) > 25
    assert info.rotation == (0 if kind == "tiff" else quarters)  # Pillow has turned a TIFF when it hands it out


@pytest.mark.parametrize("kind", MOVING)
def test_a_moving_picture_keeps_its_times(tmp_path, kind):
    path = tmp_path / "moving.bin"
    animation(path, kind)
    starts = np.cumsum([0, *DURATIONS])[:-1] / 1000
    info = video.probe(path)
    assert (info.frames, info.height, info.width, info.codec) == (8, 32, 64, kind)
    assert info.variable and info.seconds == pytest.approx(0.93) and info.fps == pytest.approx(8 / 0.93)
    assert video.times(path) == pytest.approx(starts)
    frames, fps = video.read(path)
    assert numbers(frames) == list(range(8)) and fps == pytest.approx(info.fps)
    assert numbers(video.read(path, first=3, frames=2)[0]) == [3, 4]
    assert numbers(video.read(path, start=float(starts[5]), frames=9)[0]) == [5, 6, 7]
    nearest = [int(np.abs(starts - k / 20).round(6).argmin()) for k in range(19)]  # a tie goes to the earlier
    assert numbers(video.read(path, fps=20)[0]) == nearest  # the last frame too is shown for its own time


def test_frames_without_a_time_are_shown_as_browsers_do(tmp_path):
    animation(tmp_path / "moving.gif", "gif", duration=0)
    assert video.times(tmp_path / "moving.gif") == pytest.approx(np.arange(8) / 10)


def test_a_default_picture_for_who_cannot_animate_is_no_frame(tmp_path):
    animation(tmp_path / "moving.png", "png", default_image=True, duration=100)
    assert numbers(video.read(tmp_path / "moving.png")[0]) == list(range(1, 8))


def test_a_moving_picture_is_not_held_whole(tmp_path):
    path = tmp_path / "moving.webp"
    big = [Image.fromarray(np.full((600, 800, 3), index, np.uint8)) for index in range(0, 240, 4)]
    big[0].save(path, save_all=True, append_images=big[1:], duration=40, lossless=True)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in video.stream(path, frames=2):
        pass
    before = resident()
    assert sum(1 for _ in video.stream(path)) == 60
    assert resident() - before < 30 * 800 * 600 * 3  # half of the frames


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("kind", ["png", "webp", "gif", "tiff"])
def test_transparent_parts_come_white(tmp_path, mode, kind):
    if mode == "LA" and kind in ("gif",):
        mode = "RGBA"
    layers = np.zeros((16, 16, 4), np.uint8)
    layers[8:] = (0, 0, 0, 255)
    picture = Image.fromarray(layers)
    if mode == "P":
        picture = Image.fromarray((layers[..., 3] // 255).astype(np.uint8)).convert("P")
        picture.putpalette([10, 200, 10, 0, 0, 0])
        if kind not in ("png", "gif"):
            picture.info["transparency"] = 0
            picture = picture.convert("RGBA")
        else:
            picture.info["transparency"] = 0
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "picture", format=kind, **({"lossless": True} if kind == "webp" else {}))
    image = video.read(tmp_path / "picture")[0][0]
    assert video.probe(tmp_path / "picture").alpha
    assert (image[:8] == 255).all() and (image[8:] == 0).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.fromarray(np.full((4, 4, 4), (100, 0, 200, 128), np.uint8)).save(tmp_path / "picture.png")
    assert video.read(tmp_path / "picture.png")[0][0, 0, 0].tolist() == pytest.approx([177, 127, 227], abs=1)


def test_other_kinds_of_pixels(tmp_path):
    deep = (np.arange(256, dtype=np.uint16) * 257)[None].repeat(4, axis=0)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert video.read(tmp_path / "deep.png")[0][0, 0, :, 1].tolist() == list(range(256))
    assert video.probe(tmp_path / "deep.png").bits == 16
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert psnr(video.read(tmp_path / "print.jpg")[0][0], colours()) > 25
    Image.fromarray(colours()).convert("1").save(tmp_path / "ink.png")
    assert set(np.unique(video.read(tmp_path / "ink.png")[0])) == {0, 255}
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "light.tiff")
    with pytest.raises(InputError, match="light.tiff: not a readable picture: pixels are floating point"):
        video.read(tmp_path / "light.tiff")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_a_truncated_picture_is_an_input_error(tmp_path, kind, share):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format=kind)
    path = tmp_path / f"picture.{kind}"
    path.write_bytes(file.getvalue()[: int(len(file.getvalue()) * share)])
    for read in (video.probe, video.read, video.times):
        with pytest.raises(InputError, match=f"picture.{kind}: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("kind", MOVING)
def test_a_moving_picture_that_breaks_off_gives_what_it_has(tmp_path, kind):
    animation(tmp_path / "whole", kind)
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) * 2 // 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)
        try:
            found = numbers(video.read(path)[0])
        except InputError as error:  # a WebP whose length is not what its head says is refused whole
            assert kind == "webp" and "\n" not in str(error)
        else:
            assert found == list(range(len(found))) and 1 < len(found) < 8
            assert len(video.times(path)) == video.probe(path).frames == len(found)


@pytest.mark.parametrize("limit", [10_000, 6_000])  # Pillow raises beyond twice the limit, else it warns
def test_a_decompression_bomb_is_an_input_error(tmp_path, monkeypatch, limit):
    Image.fromarray(np.zeros((101, 100, 3), np.uint8)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit if limit > 6000 else 5_000)
    for read in (video.probe, video.read):
        with pytest.raises(InputError, match="bomb.png: not a readable picture: .*pixels"):
            read(tmp_path / "bomb.png")


def test_a_phones_heic_is_refused_by_name(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(InputError, match="IMG_1.HEIC: HEIC pictures are not supported"):
        video.probe(tmp_path / "IMG_1.HEIC")


def test_random_damage_is_never_another_exception(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("png", "jpeg", "webp", "bmp", "tiff", "gif"):
        if kind in MOVING:
            animation(tmp_path / "good", kind)
        else:
            Image.fromarray(colours()).save(tmp_path / "good", kind)
        data = np.frombuffer((tmp_path / "good").read_bytes(), np.uint8)
        for _ in range(25):
            worse = data.copy()
            worse[rng.integers(4, len(data), 6)] = rng.integers(0, 256, 6)
            (tmp_path / "bad").write_bytes(worse.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    video.probe(tmp_path / "bad")
                    video.read(tmp_path / "bad")
                except InputError as error:
                    assert "\n" not in str(error)
