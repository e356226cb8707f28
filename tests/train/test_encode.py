"""The cache of latents: what is encoded, once, in which order, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train import tiny
from tests.train.runs import alone
from videodit.checkpoint.latents import LatentCache
from videodit.data.batches import Few
from videodit.data.datasets import VideoFolder
from videodit.data.sample import ENLARGED, REPEATED, BadSample, Sample
from videodit.data.video import write
from videodit.models.vae import VideoVAE
from videodit.train.build import tell_made_up
from videodit.train.encode import calibrate, encode_datasets


class Clips:
    """Clips of two shapes; those in `bad` cannot be read. `version` is a change of their transform."""

    def __init__(self, count: int, *, bad: tuple[int, ...] = (), seed: int = 0, version: int = 0) -> None:
        self.count, self.bad, self.seed, self.version = count, bad, seed, version
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadSample(Path("folder") / f"{index}.mp4", "moov atom not found")
        self.read.append(index)
        return Sample(self.clip(index), f"clip {index} of {self.seed}", 8.0, str(index))

    def clip(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        return torch.rand(3, 5, 16, 16 + 8 * (index // 2 % 2), generator=generator) * 2 - 1

    def fingerprint(self, index: int) -> str:
        return f"{self.seed}-{index}-{self.version}-{'bad' if index in self.bad else 'good'}"


def _encode(folder: Path, *datasets: Clips, vae: VideoVAE | None = None) -> LatentCache:
    return encode_datasets(datasets, vae or tiny.vae(), folder=folder, workers=0, mesh=alone())


def test_every_clip_has_its_latents_and_its_caption_in_order(tmp_path: Path) -> None:
    """Whatever was encoded together with it."""
    first, second, vae = Clips(7), Clips(3, seed=1), tiny.vae()
    cache = _encode(tmp_path, first, second)
    captions = [f"clip {i} of 0" for i in range(7)] + [f"clip {i} of 1" for i in range(3)]
    assert [cache[i][1] for i in range(10)] == captions
    with torch.no_grad():
        for place, (dataset, index) in enumerate([(first, i) for i in range(7)] + [(second, i) for i in range(3)]):
            latents = vae.encode(dataset.clip(index)[None])[0]
            assert tuple(latents.shape[1:]) == (2, 2, 2 + index // 2 % 2)
            torch.testing.assert_close(cache[place][0].float(), latents, rtol=2e-3, atol=2e-3)
            assert (cache.shape(place).frames, cache.shape(place).width) == (2, 2 + index // 2 % 2)


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    _encode(tmp_path, Clips(6))
    again, longer = Clips(6), Clips(9)
    _encode(tmp_path, again)
    assert again.read == []
    assert len(_encode(tmp_path, longer)) == 9 and longer.read == [6, 7, 8]


def test_another_vae_or_transform_is_encoded_anew(tmp_path: Path) -> None:
    """And what was there is found again."""
    _encode(tmp_path, Clips(4))
    other, changed = Clips(4), Clips(4, version=1)
    assert len(_encode(tmp_path, other, vae=tiny.vae(seed=1))) == 4 and other.read == [0, 1, 2, 3]
    assert len(_encode(tmp_path, changed)) == 4 and changed.read == [0, 1, 2, 3]
    back = Clips(4)
    assert len(_encode(tmp_path, back)) == 4 and back.read == []


def test_another_decoder_changes_no_latents(tmp_path: Path) -> None:
    """So a decoder can be trained further under a DiT that is already trained; not so an encoder, or the statistics."""
    vae, again, changed = tiny.vae(), Clips(4), Clips(4)
    _encode(tmp_path, Clips(4), vae=vae)
    with torch.no_grad():
        for module in (vae.decoder, vae.unquant, vae.linear_out):
            for parameter in module.parameters():
                parameter.add_(0.1)
        assert len(_encode(tmp_path, again, vae=vae)) == 4 and again.read == []
        vae.std.mul_(2)
        assert len(_encode(tmp_path, changed, vae=vae)) == 4 and changed.read == [0, 1, 2, 3]


def test_a_clip_that_cannot_be_read_is_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = _encode(tmp_path, Clips(6, bad=(1, 4)))
    assert [cache[i][1] for i in range(len(cache))] == [f"clip {i} of 0" for i in (0, 2, 3, 5)]
    told = capsys.readouterr().err
    assert "skipped folder/1.mp4: moov atom not found" in told and "folder/4.mp4" in told
    mended = Clips(6, bad=(4,))
    assert len(_encode(tmp_path, mended)) == 5 and mended.read == [1]


def test_a_data_set_of_nothing_readable_gives_no_latents(tmp_path: Path) -> None:
    assert len(_encode(tmp_path, Clips(2, bad=(0, 1)))) == 0


def test_calibration_is_the_statistics_of_raw_means() -> None:
    """A mean a channel; the deviation of each, or the root of their mean variance. Clips of any sizes."""
    data, vae = Clips(5), tiny.vae()
    clips = [data.clip(index) for index in range(5)]
    with torch.no_grad():
        raw = torch.cat([vae.posterior(clip[None])[0][0].flatten(1) for clip in clips], dim=1)
    calibrate(vae, clips, shared=False)
    torch.testing.assert_close(vae.mean, raw.mean(dim=1))
    torch.testing.assert_close(vae.std, raw.std(dim=1))
    calibrate(vae, clips, shared=True)
    torch.testing.assert_close(vae.std, raw.var(dim=1).mean().sqrt().expand(tiny.CHANNELS))


def test_what_files_do_not_have_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate above a file's own, and a size above its size; not what is only rounded."""
    (tmp_path / "in").mkdir()
    for number, (rate, size) in enumerate([(12, 64), (24000 / 1001, 64), (24, 8), (12, 64)]):
        write(tmp_path / "in" / f"{number}.mp4", np.zeros((12, size, size, 3), np.uint8), rate)
        (tmp_path / "in" / f"{number}.txt").write_text("a caption")
    clips = VideoFolder(
        root=tmp_path / "in", part="all", share=None, frames=5, height=16, width=16, area=None, fps=24, fit="crop",
        stride=(4, 8, 8), patch=(1, 1, 1),
    )  # fmt: skip
    assert [sample.made_up for sample in map(clips.__getitem__, range(4))] == [
        (REPEATED,), (), (ENLARGED,), (REPEATED,)
    ]  # fmt: skip
    assert [Few(clips, 2).made_up(number) for number in range(2)] == [(REPEATED,), (ENLARGED,)]
    capsys.readouterr()
    tell_made_up([clips, Clips(2)])
    assert capsys.readouterr().err.splitlines() == [f"1 of 4 clips {ENLARGED}", f"2 of 4 clips {REPEATED}"]
    capsys.readouterr()
    _encode(tmp_path / "cache", clips)
    told = [line for line in capsys.readouterr().err.splitlines() if "of the clips" in line]
    assert told == [f"1 of the clips that are new {ENLARGED}", f"2 of the clips that are new {REPEATED}"]
    _encode(tmp_path / "cache", clips)
    assert "of the clips" not in capsys.readouterr().err
