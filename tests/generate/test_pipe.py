"""From prompts to videos with a tiny random model: exact shapes, reproducible noise, records, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import videodit
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.data.video import probe, read
from videodit.errors import InputError
from videodit.generate import Pipe
from videodit.generate.layout import layouts
from videodit.shapes import LatentShape, VideoShape


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Pipe:
    return videodit.load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("request_keys", "expected"),
    [
        ({}, (9, 32, 32)),
        ({"size": "48x32", "frames": 1}, (1, 32, 48)),
        ({"size": "33x47", "frames": 6}, (6, 47, 33)),
        ({"width": 20, "height": 40, "seconds": 1.5, "fps": 12}, (18, 40, 20)),
        ({"aspect": "16:9", "height": 36}, (9, 36, 64)),
        ({"preset": "square", "frames": 2}, (2, 1080, 1080)),
        ({"size": "64x32", "fit": "pad"}, (9, 32, 64)),
    ],
)
def test_the_result_has_exactly_the_shape_asked_for(pipe: Pipe, request_keys: dict, expected: tuple) -> None:
    video = pipe(CAPTIONS[0], **request_keys)
    assert video.frames.shape == (*expected, 3)
    assert video.frames.dtype == np.uint8
    assert video.clip.shape == (3, *expected)
    assert video.clip.abs().max() <= 1
    assert video.fps == request_keys.get("fps", 8.0)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("path", ["linear_ddpm", "cosine_ddpm", "rectified"])
@pytest.mark.parametrize("prediction", ["noise", "clean", "velocity"])
def test_models_of_every_flow_generate(folder: Path, tmp_path: Path, path: str, prediction: str, sampler: str) -> None:
    """With all that stays the same from step to step computed once (`DiT.prepare`), and with the texts as they are."""
    shutil.copytree(folder, tmp_path / "model")
    sheet = json.loads((folder / "pipeline.json").read_text())
    sheet["flow"] = {"path": path, "prediction": prediction}
    (tmp_path / "model" / "pipeline.json").write_text(json.dumps(sheet))
    request = {"steps": 7, "sampler": sampler, "guidance": 3.0, "seed": 1, "frames": 5, "size": "48x32"}
    one, other = (
        videodit.load(str(tmp_path / "model"), device="cpu", offload=way)([CAPTIONS[0], CAPTIONS[1]], **request)
        for way in ("none", "block")
    )
    for video, again in zip(one, other, strict=True):
        assert torch.isfinite(video.clip).all() and video.clip.std() > 0
        torch.testing.assert_close(video.clip, again.clip, atol=1e-4, rtol=0)


def test_the_native_shape_is_legal_near_the_asked_one_and_of_a_size_the_model_knows(pipe: Pipe) -> None:
    for size in ("7x5", "32x32", "100x300", "1920x1080"):
        request = pipe.request(CAPTIONS[0], size=size, frames=30, fps=30)
        native = pipe.native(request)
        native.latent(pipe.parts.vae.stride).grid(pipe.parts.dit.patch)  # raises where it is not legal
        assert 512 <= native.height * native.width <= 2500
        assert abs(np.log((native.width / native.height) / (request.width / request.height))) < 0.4
    assert pipe.native(pipe.request(CAPTIONS[0])) == VideoShape(9, 32, 32)


@pytest.mark.parametrize("frames, fps, made", [(16, 8, 17), (14, 8, 17), (9, 8, 9), (2, 8, 5), (1, 8, 1), (48, 24, 17)])
def test_the_frames_asked_for_are_made_and_what_is_beyond_is_cut(
    pipe: Pipe, frames: int, fps: float, made: int
) -> None:
    """None is a copy of another: frame k is the clip at k / fps, blended where that lies between two."""
    request = pipe.request(CAPTIONS[0], frames=frames, fps=fps, steps=1)
    video = pipe.run([request])[0]
    assert video.record["generated"]["frames"] == made == pipe.native(request).frames
    whole = pipe.run([pipe.request(CAPTIONS[0], frames=made, steps=1)])[0].clip
    place = torch.arange(frames) * 8 / fps
    low = place.long()
    expected = torch.lerp(whole[:, low], whole[:, (low + 1).clamp(max=made - 1)], (place - low)[None, :, None, None])
    torch.testing.assert_close(video.clip, expected, atol=1e-5, rtol=0)
    assert all((one != other).any() for one, other in zip(*[video.clip.unbind(1)[i:] for i in (0, 1)], strict=False))


def test_an_older_record_is_made_again_at_its_own_shape(pipe: Pipe) -> None:
    """13 frames were made for 16, and the last one held."""
    request = pipe.request(CAPTIONS[0], frames=16)
    layout = {**layouts(pipe, [request])[0], "shapes": [[4, 4, 4]]}
    video, short = pipe.run([request], layout=layout)[0], pipe(CAPTIONS[0], frames=13)
    assert video.record["generated"] == {"frames": 13, "height": 32, "width": 32, "fps": 8.0}
    assert torch.equal(video.clip[:, :13], short.clip)
    assert torch.equal(video.clip[:, 13:], short.clip[:, 12:].expand(-1, 3, -1, -1))


def test_noise_is_diffusers_noise(pipe: Pipe) -> None:
    expected = torch.randn((1, 4, 3, 4, 4), generator=torch.Generator("cpu").manual_seed(7))[0]
    assert torch.equal(pipe.noise(7, LatentShape(3, 4, 4)), expected)


def test_a_video_does_not_depend_on_its_pack(pipe: Pipe) -> None:
    sizes = ("32x32", "48x32", "32x48")
    requests = [pipe.request(CAPTIONS[i % 2], size=size, seed=i, frames=5 + 4 * i) for i, size in enumerate(sizes)]
    together = pipe.run(requests)
    alone = [pipe.run([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.frames.astype(int) - other.frames.astype(int)).max() <= 1


def test_prompt_i_of_a_list_uses_seed_plus_i(pipe: Pipe) -> None:
    videos = pipe([CAPTIONS[0], CAPTIONS[0]], seed=3)
    assert [video.record["seed"] for video in videos] == [3, 4]
    assert np.abs(videos[1].frames.astype(int) - pipe(CAPTIONS[0], seed=4).frames.astype(int)).max() <= 1
    assert (videos[0].frames != videos[1].frames).any()


def test_prompt_negative_guidance_and_sampler_matter(pipe: Pipe) -> None:
    base = pipe(CAPTIONS[0]).clip
    for change in ({"negative": CAPTIONS[1]}, {"guidance": 5.0}, {"sampler": "heun"}, {"steps": 4}):
        assert (pipe(CAPTIONS[0], **change).clip - base).abs().max() > 1e-4
    assert (pipe(CAPTIONS[1]).clip - base).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["euler", "heun", "unipc", "dpmpp"])
def test_every_sampler_runs(pipe: Pipe, name: str) -> None:
    assert torch.isfinite(pipe(CAPTIONS[0], sampler=name, steps=4).clip).all()


def test_the_record_travels_inside_the_video_and_beside_it(pipe: Pipe, tmp_path: Path) -> None:
    video = pipe("a ball, {x}: ünïcode ☃", seed=5, size="36x24", frames=6)
    path = video.save(tmp_path / "new" / "ball.mp4")
    record = json.loads(probe(path).metadata["comment"])
    assert record == video.record == json.loads(path.with_name("ball.mp4.json").read_text())
    assert record["prompt"] == "a ball, {x}: ünïcode ☃"
    assert set(record["weights"]) == {"dit", "text", "vae"}
    frames, fps = read(path)
    assert frames.shape == (6, 24, 36, 3)
    assert fps == 8.0


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"size": "0x64"}, "size"),
        ({"size": "big"}, "size"),
        ({"width": 0}, "width"),
        ({"frames": 0}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"steps": 0}, "steps"),
        ({"fps": 0}, "fps"),
        ({"seconds": -1}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"sampler": "eulr"}, "sampler"),
        ({"fit": "squeeze"}, "fit"),
        ({"preset": "watch"}, "preset"),
        ({"aspect": "wide"}, "aspect"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_requests_name_the_key(pipe: Pipe, keys: dict, words: str) -> None:
    keys = {"prompt": CAPTIONS[0], **keys}
    with pytest.raises(InputError, match=words):
        pipe(keys.pop("prompt"), **keys)


def test_requests_made_together_agree_on_the_sampler(pipe: Pipe) -> None:
    with pytest.raises(InputError, match="one sampler"):
        pipe.run([pipe.request(CAPTIONS[0], steps=2), pipe.request(CAPTIONS[0], steps=3)])


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        videodit.load(str(tmp_path / "nowhere"))
