"""Decoding whole, in chunks and in tiles, and stepping down from one to the next where memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.compare import assert_equal, distance, shaken
from videodit.decode import OVERLAP, Way, decode, decode_stepping_down, starts, ways
from videodit.errors import InputError, is_out_of_memory
from videodit.models.vae import VideoVAE

LATENTS = 4


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    torch.manual_seed(0)
    model = VideoVAE(
        latent_channels=LATENTS,
        base=8,
        decoder_base=8,
        multipliers=(1, 2),
        spatial=(True,),
        temporal=(True,),
        blocks=1,
        shortcuts=False,
        linear=False,
        patch=2,
    )
    return shaken(model.requires_grad_(False), std=0.05)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(LATENTS, 5, 12, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing(vae: VideoVAE, latents: Tensor, chunk: int) -> None:
    whole = decode(vae, latents, Way(0))
    assert whole.shape == (3, 9, 48, 160)
    assert_equal(decode(vae, latents, Way(chunk)), whole)


def test_tiles_change_little(vae: VideoVAE, latents: Tensor) -> None:
    """Only the attention within a frame reaches further than the overlap; without it nothing changes inside."""
    whole, tiled = decode(vae, latents, Way(0)), decode(vae, latents, Way(1, 16))
    assert tiled.shape == whole.shape
    assert distance(tiled, whole) < 0.7  # of a random network, whose attention is no better than noise
    proj = vae.decoder.middle.attention.proj
    kept = proj.weight.clone(), proj.bias.clone()
    torch.nn.init.zeros_(proj.weight), torch.nn.init.zeros_(proj.bias)
    whole, tiled = decode(vae, latents, Way(0)), decode(vae, latents, Way(1, 16))
    error = (tiled - whole).abs()
    assert error.mean() < 0.1 * whole.std()
    assert error[..., :12].max() < 1e-5  # in the first tile, further from its edge than the convolutions reach
    proj.weight.copy_(kept[0]), proj.bias.copy_(kept[1])


@pytest.mark.parametrize(("size", "tile"), [(40, 16), (16, 16), (7, 16), (17, 16), (104, 32), (28, 16)])
def test_tiles_cover_all_and_overlap(size: int, tile: int) -> None:
    places = list(starts(size, tile))
    ends = [start + tile for start in places]
    assert places[0] == 0 and ends[-1] >= size and (size <= tile or ends[-1] == size)
    assert all(end - start >= OVERLAP for end, start in zip(ends, places[1:], strict=False))


class Small:
    """A network that fails for want of memory above a number of latent values at a time."""

    def __init__(self, vae: VideoVAE, most: int, error: type[Exception]) -> None:
        self.vae, self.most, self.error = vae, most, error
        self.mean, self.stride = vae.mean, vae.stride

    def decode_chunks(self, latents: Tensor, chunk: int) -> Any:
        if latents[:, :, :chunk].numel() > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return self.vae.decode_chunks(latents, chunk)


@pytest.mark.parametrize(("most", "said"), [(10**9, 0), (4 * 480 * 2, 1), (4 * 480, 2), (4 * 16 * 16, 3)])
@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_stepping_down(
    vae: VideoVAE, latents: Tensor, most: int, said: int, error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    down = ways(tuple(latents.shape[1:]), torch.device("cpu"), Way(4))
    assert [str(way) for way in down] == [
        "4 latent frames at a time",
        "2 latent frames at a time",
        "1 latent frames at a time",
        "1 latent frames at a time, in tiles of 32 latents",
        "1 latent frames at a time, in tiles of 16 latents",
    ]
    clip, way = decode_stepping_down(lambda device: Small(vae, most, error), latents, down)
    said += said == 3 and 1  # both sizes of tiles
    assert way == down[said]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == said and all("not enough memory to decode" in line for line in told)
    assert distance(clip, decode(vae, latents, Way(0))) < (1e-5 if said < 3 else 0.5)


def test_no_way_is_left(vae: VideoVAE, latents: Tensor) -> None:
    down = ways(tuple(latents.shape[1:]), torch.device("cpu"), Way(0))
    with pytest.raises(InputError, match="the memory does not suffice"):
        decode_stepping_down(lambda device: Small(vae, 1, MemoryError), latents, down)


def test_other_errors_are_not_about_memory(vae: VideoVAE, latents: Tensor) -> None:
    def broken(device: str) -> VideoVAE:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        decode_stepping_down(broken, latents, [Way(0), Way(1)])
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert is_out_of_memory(RuntimeError("FIND was unable to find an engine to execute this computation"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"))


def test_the_cpu_comes_last() -> None:
    down = ways((21, 60, 104), torch.device("cuda"), Way(0))
    assert [way.device for way in down] == [""] * 6 + ["cpu"] * 3
