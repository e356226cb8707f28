"""How well a VAE restores real clips: `python tools/vae_on_clips.py FOLDER [model=toy] [frames=17] [areas=4096,0]`.

For every video below the folder the first frames (at the file's own rate), shrunk to about so many pixels a frame and
cut to legal sides; 0 leaves their size. Printed: PSNR and SSIM of each, and the means.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from videodit.data.resize import resize
from videodit.data.sample import to_clip
from videodit.data.video import probe, stream
from videodit.errors import InputError
from videodit.eval.metrics import psnr, ssim
from videodit.models.vae import VideoVAE
from videodit.shapes import VideoShape
from videodit.train.init import find_vae, open_vae


def clip(path: Path, frames: int, area: int, stride: tuple[int, int, int]) -> torch.Tensor:
    """(3,T,H,W) in [-1,1]."""
    info = probe(path)
    shape = VideoShape(frames, info.height, info.width)
    legal = (shape.within(area) if area else shape).legal(stride, (1, 1, 1))
    images = stream(path, start=0.0, frames=frames, fps=info.fps, reader="av")
    return torch.cat([resize(to_clip(image[None]), legal.height, legal.width, fit="crop") for image in images], dim=1)


@torch.no_grad()
def restored(vae: VideoVAE, one: torch.Tensor) -> tuple[float, float]:
    """PSNR and SSIM."""
    back = vae.decode(vae.encode(one[None])).clamp(-1, 1)
    return psnr(back, one[None]).item(), ssim(back.double(), one[None].double()).mean().item()


def main(arguments: Sequence[str]) -> None:
    options = {"model": "toy", "frames": "17", "areas": "4096,0"}
    options |= dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folders = [Path(argument) for argument in arguments if "=" not in argument]
    vae = open_vae(find_vae(options["model"])).eval()
    for area in map(int, options["areas"].split(",")):
        scores = []
        for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
            try:
                one = clip(path, int(options["frames"]), area, vae.stride)
            except (InputError, OSError):
                continue  # no video
            scores.append(restored(vae, one))
            size = f"{one.shape[3]}x{one.shape[2]}"
            print(f"{path.name:<40}{size:>10}{scores[-1][0]:8.2f} dB{scores[-1][1]:8.4f}", flush=True)
        if not scores:
            raise InputError(f"{', '.join(map(str, folders)) or 'no folder'}: no video")
        means = torch.tensor(scores).mean(0).tolist()
        print(f"{len(scores)} clips, {area or 'their own'} pixels: {means[0]:.2f} dB, SSIM {means[1]:.4f}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
