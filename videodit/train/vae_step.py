"""What the VAE is trained for: reconstruction, a simple latent space, and by choice what a critic sees.

    B clips, C latent channels
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from videodit.checkpoint.store import save_model
from videodit.data.batches import ClipBatch, derive_seed
from videodit.models.build import build
from videodit.models.vae import VideoVAE
from videodit.train.encode import calibrate


class VAEObjective:
    """Reconstruction + kl * KL(posterior || N(0,1)) (Kingma & Welling 2013, arXiv:1312.6114).

    Args:
        vae: what is trained.
        kl: weight of the mean KL of a latent value, beside the mean squared error of a pixel value.
        noise: standard deviation that the posterior starts with.
        learn_noise: train the posterior's variance. Without it every latent value carries the same noise, so what
            matters more to the picture takes a larger scale, and fine detail stays small: easier for a DiT.
        shared_std: normalise all latent channels by one deviation (see `calibrate`).
        clips: each (3,T,H,W), to take the latents' statistics from.
        seed: of the posterior's samples.
    """

    def __init__(
        self,
        *,
        vae: VideoVAE,
        kl: float,
        noise: float,
        learn_noise: bool,
        shared_std: bool,
        clips: Sequence[Tensor],
        seed: int,
    ) -> None:
        self.module, self.kl, self.noise, self.learn_noise, self.seed = vae, kl, noise, learn_noise, seed
        self.shared_std, self.clips = shared_std, clips

    def loss(self, batch: ClipBatch, number: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of batch number `number`, and its parts."""
        device = self.module.mean.device
        clips = batch.clips.to(device)
        mean, logvar = (x.float() for x in self.module.posterior(clips))
        if not self.learn_noise:
            logvar = torch.full_like(mean, self.noise).square().log()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "posterior", number))
        noise = torch.randn(mean.shape, generator=generator).to(device)
        restored = self.module.reconstruct(mean + (0.5 * logvar).exp() * noise).float()
        error = (restored - clips).square().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        psnr = -10 * (error.detach() / 4).log10()
        power = mean.detach().square().mean()
        return error + self.kl * kl, {"psnr": psnr.item(), "kl": kl.item(), "power": power.item()}

    def size(self, batch: ClipBatch) -> dict[str, float]:
        """Clips; latent positions as tokens."""
        count, _, frames, height, width = batch.clips.shape
        time, rows, columns = self.module.stride
        positions = (1 + (frames - 1) // time) * (height // rows) * (width // columns)
        return {"clips": float(count), "tokens": float(count * positions)}

    def publish(self, folder: Path, averages: dict[str, Tensor]) -> None:
        """Write vae.safetensors, with the statistics of its latents."""
        vae = build(self.module.spec["architecture"], **self.module.spec["arguments"]).to(self.module.mean.device)
        vae.load_state_dict(averages)
        calibrate(vae, self.clips, shared=self.shared_std)
        save_model(folder / "vae.safetensors", vae)
