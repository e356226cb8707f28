"""What an evaluation reports beside its prompts (the VAE, the loss by time), and the report as JSON and as lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from videodit.data.video import replacing
from videodit.eval.metrics import psnr, ssim
from videodit.eval.protocol import DISTANCE, Benchmark, Section, lots
from videodit.shapes import VideoShape


class Autoencoder(Protocol):
    """Clips (B,3,T,H,W) in [-1,1] to latents and back."""

    def encode(self, clip: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@torch.no_grad()
def reconstruction(
    vae: Autoencoder, benchmark: Benchmark, shapes: Sequence[VideoShape], *, count: int, seed: int, batch: int,
    device: torch.device | str,
) -> Section:  # fmt: skip
    """PSNR (dB) and SSIM of real clips that went through the VAE, by shape: the means and the worst clip's.

    The clips are the benchmark's samples of seed `seed`, which must not be one that the VAE was trained on.
    """
    table: Section = {}
    for shape in shapes:
        decibels, similarity = [], []
        for part in lots(range(count), batch):
            clips = benchmark.render(benchmark.samples(seed, part), shape).to(device)
            back = vae.decode(vae.encode(clips.to(vae.mean.dtype))).float().clamp(-1, 1)
            decibels.append(psnr(back, clips))
            similarity.append(ssim(back.double(), clips.double()).mean(1))
        scores = {"psnr": torch.cat(decibels), "ssim": torch.cat(similarity)}
        table[str(shape)] = {"clips": count} | {name: score.mean().item() for name, score in scores.items()}
        table[str(shape)] |= {f"worst {name}": score.min().item() for name, score in scores.items()}
    return table


def by_time(t: Tensor, losses: Tensor, bins: int) -> list[dict[str, float]]:
    """Held-out losses (N,) at times t (N,) in [0,1] → the mean loss in each of `bins` equal stretches of time.

    A stretch without a loss is left out.
    """
    place = (t * bins).long().clamp(0, bins - 1)
    chosen = {bin: losses[place == bin] for bin in range(bins)}
    return [
        {"from": bin / bins, "to": (bin + 1) / bins, "count": len(some), "loss": some.mean().item()}
        for bin, some in chosen.items()
        if len(some)
    ]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The report, whole or not at all. Raises InputError when the file cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(value: Mapping[str, Any]) -> Iterator[str]:
    """The report's numbers as lines to print."""
    for kind, section in value.get("prompts", {}).items():
        yield f"{kind}: {section['prompts']} prompts, {section['shape']}"
        yield from _table({name: section[name] for name in ("accuracy", "ceiling", "floor")})
        if "measures" in section:
            yield from _table(section["measures"], "{:.3f}".format)
        if DISTANCE in section:  # of two clips and more
            rendered = section[f"{DISTANCE}, rendered"]
            yield f"  {DISTANCE} {section[DISTANCE]:.2f}, of as many rendered clips {rendered:.2f}"
    if shapes := value.get("shapes", {}):
        yield "ordinary prompts by shape"
        yield from _table({shape: row["accuracy"] for shape, row in shapes.items()})
        yield from _table({f"{shape}, ceiling": row["ceiling"] for shape, row in shapes.items()})
    for shape, row in value.get("reconstruction", {}).items():
        yield f"VAE, {shape}: PSNR {row['psnr']:.2f} dB (worst {row['worst psnr']:.2f}), SSIM {row['ssim']:.4f}"
    for row in value.get("loss", []):
        yield f"held-out loss, t {row['from']:.1f} to {row['to']:.1f}: {row['loss']:.4f}"


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f}"


def _table(rows: Mapping[str, Mapping[str, float]], form: Callable[[float], str] = percent) -> Iterator[str]:
    """Numbers as a table: a line of column names, then one a row; a blank where a row lacks one."""
    columns = max((list(row) for row in rows.values()), key=len)
    titles = [name.removeprefix("first ").removeprefix("second ") for name in columns]
    first, wide = max(map(len, rows)) + 2, max(9, *(len(title) + 1 for title in titles))
    yield "  " + " " * first + "".join(title.rjust(wide) for title in titles)
    for label, row in rows.items():
        cells = (form(row[name]) if name in row else "" for name in columns)
        yield "  " + label.ljust(first) + "".join(cell.rjust(wide) for cell in cells)
