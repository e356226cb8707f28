"""A critic for the VAE: it tells clips from reconstructions, patch by patch, and its features serve as a perceptual
distance that needs no foreign weights (Isola et al. 2016, arXiv:1611.07004; Wang et al. 2017, arXiv:1711.11585).

    B batch, T frames, H height, W width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchCritic(nn.Module):
    """Clips (B,3,T,H,W) -> a score for each patch, and the features of every layer.

    Args:
        base: channels of the first layer; each of the `layers` halves height and width, and doubles the channels.
    """

    def __init__(self, *, base: int, layers: int) -> None:
        super().__init__()
        sizes = [3, *(base * 2**i for i in range(layers))]
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, (3, 4, 4), stride=(1, 2, 2), padding=1) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.score = nn.Conv3d(sizes[-1], 1, 3, padding=1)

    def forward(self, clips: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = clips, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features


def critic_losses(critic: PatchCritic, restored: Tensor, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(adversarial, perceptual, critic) losses of reconstructions and clips (B,3,T,H,W).

    The first two reach the reconstructions but not the critic, the third the critic alone, so that one backward pass
    through their sum trains both sides.
    """
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    score, features = torch.func.functional_call(critic, fixed, (restored,))
    with torch.no_grad():
        _, wanted = critic(clips)
    perceptual = torch.stack([F.l1_loss(a, b) for a, b in zip(features, wanted, strict=True)]).mean()
    real, fake = critic(clips)[0], critic(restored.detach())[0]
    hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return -score.mean(), perceptual, hinge
