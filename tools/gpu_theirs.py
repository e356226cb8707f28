"""diffusers' networks for tools/gpu_sections.py, with random weights, and ours with the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from gpu_parts import PROMPTS, Guided
from torch import Tensor, nn

from videodit.checkpoint.families import wan
from videodit.checkpoint.keymap import translate
from videodit.models.build import rebuild

STATES = 512  # of a prompt, padded


@contextmanager
def _made_at(device: torch.device, dtype: torch.dtype) -> Any:
    """What is made meanwhile is made there, in this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def their_dit(arguments: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """WanTransformer3DModel, in float32 what `from_pretrained` keeps so."""
    torch.manual_seed(0)
    with _made_at(device, dtype):
        network = WanTransformer3DModel.from_config(wan.to_dit_config(arguments, {})).eval().requires_grad_(False)
    exact = network._keep_in_fp32_modules or ()
    for name, parameter in network.named_parameters():
        if any(one in name.split(".") for one in exact):
            parameter.data = parameter.data.float()
    return network


def our_dit(spec: Mapping[str, Any], theirs: nn.Module) -> Any:
    """Ours with the same weights, most of them in the same memory."""
    with torch.device("meta"):
        network = rebuild(spec["architecture"], spec["arguments"])
    table, wanted = wan.dit_table("diffusers", spec["arguments"]), network.state_dict().keys()
    state = translate(theirs.state_dict(), table, wanted, source="diffusers' transformer")
    dtype = theirs.proj_out.weight.dtype
    for name, value in state.items():
        exact = any(name.startswith(one) or name.endswith(one) for one in network.KEEP_FP32)
        state[name] = value.to(torch.float32 if exact else dtype)
    network.load_state_dict(state, strict=True, assign=True)
    return network


def their_step(theirs: Any, ours: Guided) -> Callable[[], Tensor]:
    """Prompt and negative one after the other, as its pipeline does, each of STATES states."""
    parts = ours.context.streams["text"].states.split(PROMPTS)
    padded = [torch.cat([x, x.new_zeros(STATES - len(x), x.shape[1])])[None] for x in parts]
    at = torch.tensor([613.0], device=ours.x.device)

    @torch.no_grad()
    def step() -> Tensor:
        return torch.cat([theirs(ours.x[None], at, states).sample for states in padded])

    return step


def their_vae(found: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """AutoencoderKLWan with the published statistics."""
    torch.manual_seed(0)
    channels = found["arguments"]["latent_channels"]
    config = wan.to_vae_config(found["arguments"], {key: found[key][:channels] for key in ("mean", "std")})
    with _made_at(device, dtype):
        return AutoencoderKLWan.from_config(config).eval().requires_grad_(False)


def our_vae(found: Mapping[str, Any], theirs: Any) -> Any:
    """Ours with the same weights."""
    with torch.device("meta"):
        network = rebuild(found["architecture"], found["arguments"])
    table, statistics = wan.vae_table("diffusers", found["arguments"]), ("mean", "std")
    wanted = network.state_dict().keys() - set(statistics)
    state = translate(theirs.state_dict(), table, wanted, source="diffusers' VAE")
    like = next(theirs.parameters())
    for name in statistics:
        state[name] = torch.tensor(theirs.config[f"latents_{name}"], device=like.device, dtype=like.dtype)
    network.load_state_dict(state, strict=True, assign=True)
    return network


def their_decoding(theirs: Any, latents: Tensor) -> Callable[[], Tensor]:
    """Latents (C,t,h,w) -> the clip (3,T,H,W) on the CPU in float32, as ours comes."""
    mean, std = (
        torch.tensor(theirs.config[f"latents_{name}"], device=latents.device, dtype=latents.dtype).view(-1, 1, 1, 1)
        for name in ("mean", "std")
    )

    @torch.no_grad()
    def decode() -> Tensor:
        return theirs.decode((latents * std + mean)[None]).sample[0].float().cpu()

    return decode
