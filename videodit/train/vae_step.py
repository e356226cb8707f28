"""What the VAE is trained for: reconstruction, a simple latent space, and by choice what a critic sees.

B clips, C latent channels
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from videodit.checkpoint.parts import FILES, name_of
from videodit.checkpoint.store import save_model
from videodit.data.batches import ClipBatch, derive_seed
from videodit.eval.metrics import ssim
from videodit.models.build import build
from videodit.models.critic import PatchCritic, critic_losses
from videodit.models.interfaces import VAE
from videodit.models.vae import VideoVAE
from videodit.train.encode import calibrate
from videodit.train.meter import Means


class VAEObjective:
    """Reconstruction + kl * KL(posterior || N(0,1)) (Kingma & Welling 2013, arXiv:1312.6114).

    Reconstruction is the mean squared error of a pixel value, plus by choice the mean absolute error and what SSIM
    lacks to 1 (Zhao et al. 2015, arXiv:1511.08861): the first is what PSNR measures, beside it the second gives small
    errors more weight, and the third faint detail.

    Args:
        vae: what is trained.
        absolute, structure: weights of the mean absolute error and of 1 - SSIM.
        kl: weight of the mean KL of a latent value, beside the mean squared error of a pixel value.
        noise: standard deviation that the posterior starts with.
        learn_noise: train the posterior's variance. Without it every latent value carries the same noise, so what
            matters more to the picture takes a larger scale, and fine detail stays small: easier for a DiT.
        shared_std: normalise all latent channels by one deviation (see `calibrate`).
        adversarial, perceptual: weights of what the critic adds, if there is one (models/critic.py).
        critic: trained against the VAE, in the same step.
        clips: each (3,T,H,W), to take the latents' statistics from.
        seed: of the posterior's samples, each a function of (seed, step, number of the crop).
    """

    complete = True  # for the loop: what is frozen is published too

    def __init__(
        self,
        *,
        vae: VideoVAE,
        absolute: float,
        structure: float,
        kl: float,
        noise: float,
        learn_noise: bool,
        adversarial: float,
        perceptual: float,
        critic: PatchCritic | None,
        shared_std: bool,
        clips: Sequence[Tensor],
        seed: int,
    ) -> None:
        self.vae, self.noise, self.learn_noise, self.seed = vae, noise, learn_noise, seed
        self.absolute, self.structure, self.kl = absolute, structure, kl
        self.adversarial, self.perceptual, self.critic = adversarial, perceptual, critic
        self.shared_std, self.clips = shared_std, clips
        self.module = vae if critic is None else nn.ModuleDict({name_of(VAE): vae, "critic": critic})

    def loss(self, batch: ClipBatch, step: int) -> tuple[Tensor, Means]:
        """Loss of a batch of this step, and its parts."""
        clips = batch.clips.to(self.vae.mean.device)
        mean, logvar = (x.float() for x in self.vae.posterior(clips))
        if not self.learn_noise:
            logvar = torch.full_like(mean, self.noise).square().log()
        seeds = [derive_seed(self.seed, "posterior", step, number) for number in batch.numbers]
        each = [torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        noise = torch.stack(each).to(clips.device)
        restored = self.vae.reconstruct(mean + (0.5 * logvar).exp() * noise).float()
        left = restored - clips
        error = left.square().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        parts = {"psnr": -10 * (error / 4).log10(), "kl": kl, "power": mean.square().mean()}
        total = error + self.absolute * left.abs().mean() + self.kl * kl
        if self.structure:
            parts["ssim"] = ssim(restored, clips).mean()
            total = total + self.structure * (1 - parts["ssim"])
        if self.critic is not None:
            adversarial, perceptual, critic = critic_losses(self.critic, restored, clips)
            total = total + self.adversarial * adversarial + self.perceptual * perceptual + critic
            parts |= {"adversarial": adversarial, "perceptual": perceptual, "critic": critic}
        numbers = Means()
        numbers.add({name: part.item() for name, part in parts.items()}, len(clips))
        return total, numbers

    def size(self, batch: ClipBatch) -> dict[str, float]:
        """Clips; latent positions as tokens."""
        count, _, frames, height, width = batch.clips.shape
        time, rows, columns = self.vae.stride
        positions = (1 + (frames - 1) // time) * (height // rows) * (width // columns)
        return {"clips": float(count), "tokens": float(count * positions)}

    def publish(self, folder: Path, averages: dict[str, Tensor], step: int) -> None:
        """Write vae.safetensors, with the statistics of its latents, which change only while the encoder does."""
        vae = build(self.vae.spec["architecture"], **self.vae.spec["arguments"]).to(self.vae.mean.device)
        prefix = "" if self.critic is None else f"{name_of(VAE)}."
        vae.load_state_dict({k.removeprefix(prefix): v for k, v in averages.items() if k.startswith(prefix)})
        if any(parameter.requires_grad for parameter in self.vae.encoder.parameters()):
            calibrate(vae, self.clips, shared=self.shared_std)
        save_model(folder / FILES[name_of(VAE)], vae, step=step)
