"""Every number that a run records: its name, its unit, what it is and what is good. One table for all who show it."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A number, or a family of them that is shown together.

    name: as it is recorded, or what the names of a family begin with: then it ends with "/", "/t" or a space.
    wide: shown on a logarithmic axis where its values differ by much.
    """

    name: str
    title: str
    group: str
    unit: str
    meaning: str
    wide: bool = False


PROMPTS = "samples/prompts"  # a table: the prompt and the file, relative to the run's folder, of every sample
SAMPLED = ("heldout/", "samples/")  # what begins so is recorded whenever samples are made

GROUPS = ("Learning", "Held-out clips", "Optimization", "Speed and memory", "Data")

# In the order in which they are shown.
METRICS = (
    Metric("loss", "Loss", "Learning", "",
           "What training lowers; of a DiT the mean squared error of the velocity, about 2 untrained. Good: falling.",
           wide=True),
    Metric("loss/t", "Loss by time", "Learning", "",
           "The same by time. At 0 (data) the noise must be guessed, at 1 (noise) the clip: the middle falls furthest.",
           wide=True),
    Metric("loss/tokens ", "Loss by tokens of a clip", "Learning", "",
           "The same by clip size. Good: large clips fall as small ones do.", wide=True),
    Metric("psnr", "Reconstruction", "Learning", "dB",
           "PSNR of training clips that went through the VAE. Good: rising, 30 is hard to tell from the original."),
    Metric("ssim", "Similarity", "Learning", "",
           "SSIM of the same, where it is part of the loss (vae_loss.structure). Good: rising towards 1."),
    Metric("kl", "KL of the latents", "Learning", "nats a value",
           "How far the latents are from standard normal. Good: settles, neither at 0 nor growing without end.",
           wide=True),
    Metric("power", "Power of the latents", "Learning", "",
           "Mean square of a latent value before normalisation. Good: settles.", wide=True),
    Metric("adversarial", "Adversarial loss", "Learning", "",
           "What the critic holds against reconstructions. Good: neither side wins."),
    Metric("perceptual", "Perceptual loss", "Learning", "",
           "Distance between the critic's features of clips and of reconstructions. Good: falling.", wide=True),
    Metric("critic", "Critic's loss", "Learning", "",
           "How badly the critic tells clips from reconstructions. Good: settles above 0."),
    Metric("heldout/loss", "Held-out loss", "Held-out clips", "",
           "The loss of the averaged weights on held-out clips, always with the same noise. "
           "Good: falling; rising while the loss falls is overfitting.", wide=True),
    Metric("heldout/loss/t", "Held-out loss by time", "Held-out clips", "",
           "The same by time, from 0 (data) to 1 (noise).", wide=True),
    Metric("heldout/loss/", "Held-out loss by shape", "Held-out clips", "",
           "The same by shape of the latents: frames x height x width.", wide=True),
    Metric("heldout/psnr", "Held-out reconstruction", "Held-out clips", "dB",
           "PSNR of held-out clips that went through the VAE with averaged weights. Good: rising."),
    Metric("heldout/ssim", "Held-out similarity", "Held-out clips", "",
           "SSIM of the same. Good: rising towards 1."),
    Metric("gradient norm", "Gradient norm", "Optimization", "",
           "Norm of the whole gradient before it is clipped. Good: steady; spikes are clipped, a lasting rise is not "
           "good.", wide=True),
    Metric("gradient norm/", "Gradient norm by part", "Optimization", "",
           "The same by quarters of each stack of blocks, and of all else. Good: of one order.", wide=True),
    Metric("lr/", "Learning rate", "Optimization", "", "The learning rate of each optimizer, as its curve says."),
    Metric("EMA distance", "Distance of the average", "Optimization", "share",
           "How far the averaged weights are from the weights, as a share of these. Good: small, falling at the end."),
    Metric("skipped updates", "Skipped updates", "Optimization", "updates",
           "Steps so far whose loss or gradient was not finite. Good: 0."),
    Metric("clips/s", "Clips a second", "Speed and memory", "clips/s", "Of all processes. Good: high, steady."),
    Metric("tokens/s", "Tokens a second", "Speed and memory", "tokens/s",
           "Latent tokens of all processes, text not counted. Good: high and steady."),
    Metric("mfu", "Use of the machine", "Speed and memory", "share",
           "The model's operations a second over those of this machine's matrix products. Good: near 1; large "
           "models reach 0.4 and more."),
    Metric("data wait", "Waiting for data", "Speed and memory", "share",
           "Share of the time spent waiting for batches. Good: near 0; else more workers."),
    Metric("balance", "Balance", "Speed and memory", "share",
           "Mean work of a process over the largest. Good: near 1, since the others wait."),
    Metric("memory GiB", "Memory", "Speed and memory", "GiB",
           "The most that the main process has needed so far, of the GPU where there is one. Good: flat."),
    Metric("seconds", "Time", "Speed and memory", "s",
           "Spent on the steps so far, over all sessions, with samples and checkpoints; loading is not counted."),
    Metric("clips seen", "Clips seen", "Data", "clips", "Clips trained on so far, each as often as it was used."),
    Metric("tokens seen", "Tokens seen", "Data", "tokens", "Latent tokens trained on so far."),
    Metric("skipped clips", "Skipped clips", "Data", "clips",
           "Clips so far that could not be read; skipped.jsonl names each. Good: 0."),
    Metric("skipped clips/", "Skipped clips by reason", "Data", "clips", "The same by reason."),
)  # fmt: skip


def is_family(metric: Metric) -> bool:
    """Whether a metric stands for all numbers whose names begin with its own."""
    return metric.name.endswith(("/", "/t", " "))


def find(name: str) -> Metric | None:
    """The metric that a recorded number belongs to: its own, else the family with the longest name; None if unknown."""
    fitting = [m for m in METRICS if m.name == name or is_family(m) and name.startswith(m.name)]
    return max(fitting, key=lambda m: (m.name == name, len(m.name)), default=None)
