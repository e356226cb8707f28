"""What the VAE is trained for: the loss in closed form, that it falls, and what is published."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train import tiny
from videodit.checkpoint.pretrained import load_model
from videodit.data.batches import ClipBatch
from videodit.eval.metrics import ssim
from videodit.models.critic import PatchCritic, critic_losses
from videodit.toy.world import ToyWorld
from videodit.train.ema import EMA
from videodit.train.vae_step import VAEObjective


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    world = ToyWorld(seed=0, size=6, frames=9, height=32, width=32, fps=8.0)
    return [sample.clip for sample in world.__getitems__(range(6))]


NO_CRITIC = {"adversarial": 0.0, "perceptual": 0.0, "critic": None}
PLAIN = {"absolute": 0.0, "structure": 0.0, "kl": 1e-3, "noise": 0.1, "learn_noise": False}
OBJECTIVE = partial(VAEObjective, **PLAIN, shared_std=True, seed=0, **NO_CRITIC)


def test_the_loss_is_error_plus_kl_in_closed_form(clips: list[Tensor]) -> None:
    """Without noise to speak of, the errors are those of the mean; the KL is that of two Gaussians."""
    vae = tiny.vae()
    objective = OBJECTIVE(vae=vae, clips=clips, absolute=0.2, structure=0.4, kl=0.3, noise=1e-6)
    batch = ClipBatch(torch.stack(clips[:3]), [*range(3)])
    loss, numbers = objective.loss(batch, 0)
    mean = vae.posterior(batch.clips)[0]
    restored = vae.reconstruct(mean)
    left, unlike = restored - batch.clips, 1 - ssim(restored, batch.clips).mean()
    error = left.square().mean()
    kl = 0.5 * (mean.square() + 1e-12 - 1 - math.log(1e-12)).mean()
    torch.testing.assert_close(loss, error + 0.2 * left.abs().mean() + 0.4 * unlike + 0.3 * kl, rtol=1e-4, atol=1e-4)
    assert numbers.all()["psnr"] == pytest.approx(-10 * math.log10(error.item() / 4), abs=1e-2)
    assert numbers.all()["kl"] == pytest.approx(kl.item(), rel=1e-4)
    assert numbers.all()["ssim"] == pytest.approx(1 - unlike.item(), abs=1e-4)


def test_a_learned_variance_is_in_the_kl(clips: list[Tensor]) -> None:
    vae = tiny.vae()
    batch = ClipBatch(torch.stack(clips[:2]), [*range(2)])
    _, numbers = OBJECTIVE(vae=vae, clips=clips, learn_noise=True).loss(batch, 0)
    mean, logvar = vae.posterior(batch.clips)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    assert numbers.all()["kl"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_noise_belongs_to_seed_and_batch(clips: list[Tensor]) -> None:
    vae, batch = tiny.vae(), ClipBatch(torch.stack(clips[:2]), [*range(2)])
    objective = OBJECTIVE(vae=vae, clips=clips, noise=1.0)
    losses = [objective.loss(batch, number)[0].item() for number in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    assert OBJECTIVE(vae=vae, clips=clips, noise=1.0, seed=1).loss(batch, 0)[0].item() != losses[0]


@pytest.mark.parametrize("learn_noise", [False, True])
def test_a_few_steps_lower_the_loss(clips: list[Tensor], learn_noise: bool) -> None:
    vae = tiny.vae().train()
    objective = OBJECTIVE(vae=vae, clips=clips, learn_noise=learn_noise)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    batch, losses = ClipBatch(torch.stack(clips[:2]), [*range(2)]), []
    for step in range(12):
        loss, numbers = objective.loss(batch, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert set(numbers.all()) == {"psnr", "kl", "power"}


def test_work_is_counted_in_latent_positions(clips: list[Tensor]) -> None:
    objective = OBJECTIVE(vae=tiny.vae(), clips=clips)
    five = ClipBatch(torch.zeros(5, 3, 9, 32, 48), [*range(5)])
    assert objective.size(five) == {"clips": 5.0, "tokens": 5.0 * 3 * 4 * 6}
    assert objective.size(ClipBatch(torch.zeros(0, 3, 9, 32, 48), []))["clips"] == 0


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_published_has_the_averages_and_normal_latents(
    tmp_path: Path, clips: list[Tensor], shared: bool
) -> None:
    """Latents of mean 0 and variance 1: of each channel, or of all together with one deviation."""
    vae = tiny.vae().train()
    ema = EMA(module=vae, decay=0.9)
    with torch.no_grad():
        vae.encoder.conv_in.weight.add_(1.0)  # the weights went on; the averages did not
    OBJECTIVE(vae=vae, clips=clips, shared_std=shared).publish(tmp_path / "model", ema.averages, 1)
    published = load_model(tmp_path / "model" / "vae.safetensors")
    assert torch.equal(published.encoder.conv_in.weight, ema.averages["encoder.conv_in.weight"])
    with torch.no_grad():
        latents = torch.cat([published.encode(clip[None])[0].flatten(1) for clip in clips], dim=1)
    torch.testing.assert_close(latents.mean(dim=1), torch.zeros(tiny.CHANNELS), rtol=0, atol=1e-4)
    variances = latents.var(dim=1)
    assert variances.mean().item() == pytest.approx(1.0, rel=1e-3)
    if shared:
        assert published.std.unique().numel() == 1 and variances.max() > 1.05
    else:
        torch.testing.assert_close(variances, torch.ones(tiny.CHANNELS), rtol=1e-3, atol=0)
    assert torch.equal(vae.std, torch.ones(tiny.CHANNELS)), "the network in training keeps its raw statistics"


def test_with_the_encoder_frozen_only_the_decoder_and_nothing_of_the_latents_changes(
    clips: list[Tensor], tmp_path: Path
) -> None:
    vae = tiny.vae()
    vae.std.fill_(2.0)
    before = vae.encode(clips[0][None]).detach()
    for part in (vae.encoder, vae.quant, vae.linear_in):
        part.requires_grad_(False)
    objective = OBJECTIVE(vae=vae, clips=clips)
    optimizer = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss, _ = objective.loss(ClipBatch(torch.stack(clips[:3]), [*range(3)]), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    objective.publish(tmp_path, vae.state_dict(), 1)
    torch.testing.assert_close(load_model(tmp_path / "vae.safetensors").encode(clips[0][None]), before)


def test_the_critic_learns_to_tell_and_teaches_without_being_taught(clips: list[Tensor], tmp_path: Path) -> None:
    """Its own loss reaches only the critic, the other two only the VAE; and it is not published."""
    vae, batch = tiny.vae(), ClipBatch(torch.stack(clips[:3]), [*range(3)])
    torch.manual_seed(0)
    critic = PatchCritic(base=4, layers=2)
    restored = vae.reconstruct(vae.posterior(batch.clips)[0])
    adversarial, perceptual, hinge = critic_losses(critic, restored, batch.clips)
    for loss, reaches, spares in ((adversarial, vae, critic), (perceptual, vae, critic), (hinge, critic, vae)):
        vae.zero_grad()
        critic.zero_grad()
        loss.backward(retain_graph=True)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in reaches.parameters())
        assert all(p.grad is None or p.grad.abs().sum() == 0 for p in spares.parameters())
    assert critic_losses(critic, batch.clips, batch.clips)[1] == 0
    objective = OBJECTIVE(vae=vae, clips=clips, critic=critic, adversarial=0.1, perceptual=1.0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    told = []
    for _ in range(12):
        loss, numbers = objective.loss(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(numbers.all()["critic"])
    assert told[-1] < told[0]
    objective.publish(tmp_path, objective.module.state_dict(), 1)
    assert load_model(tmp_path / "vae.safetensors").spec == vae.spec


def test_the_noise_can_start_small_and_be_learned(clips: list[Tensor]) -> None:
    vae = tiny.vae()
    vae.start_noise(0.05)
    torch.testing.assert_close((0.5 * vae.posterior(clips[0][None])[1]).exp(), torch.full((1, 4, 3, 4, 4), 0.05))
