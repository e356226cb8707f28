"""Our speed beside diffusers' on the same random weights: `python tools/bench_wan.py [rounds=3] [part=whole,dit,text]`.

The full-size Wan 2.1 VAE, a transformer of 8 layers x 1024 and a umT5 of 12 x 1024, at 17 frames of 416x240, 4 steps of
UniPC, guidance on, float32 on a CPU (bfloat16 and the 1.3B transformer at 832x480 and 81 frames on a GPU). Ours and
theirs take turns; the table gives the median time of each, the median of the ratios, and how far the outputs differ.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

import videodit
from videodit.decode import Way, decode
from videodit.models.text import train_tokenizer

PROMPT = "a large red ball rolls slowly to the right on a gray ground while two small blue cubes spin behind it"
NEGATIVE = "blurry, ugly, a still picture"
PEAK = 989e12  # of an H100 or H200 in bfloat16


@dataclass(frozen=True)
class Case:
    """What is measured on a kind of device."""

    frames: int
    height: int
    width: int
    steps: int
    dtype: torch.dtype
    transformer: dict[str, int]
    text: dict[str, int]


CPU = Case(
    *(17, 240, 416, 4, torch.float32),
    {"num_attention_heads": 8, "num_layers": 8, "ffn_dim": 4096, "text_dim": 1024},
    {"d_model": 1024, "num_layers": 12, "num_heads": 16, "d_kv": 64, "d_ff": 2816},
)
GPU = Case(
    *(81, 480, 832, 4, torch.bfloat16),
    {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "text_dim": 4096},
    {"d_model": 4096, "num_layers": 4, "num_heads": 64, "d_kv": 64, "d_ff": 10240},
)


def main(arguments: list[str]) -> None:
    """Measure what is asked for and print a line for each."""
    given = {"rounds": "3", "part": "text,encode,decode,memory,length,dit,whole"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in given:
            sys.exit(f"unknown {key}: it knows {', '.join(given)}")
        given[key] = value
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = GPU if device == "cuda" else CPU
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}, {case.dtype}, {case.frames} frames of {case.width}x{case.height}")
    print(f"{'':<22}{'ours, s':>9}{'theirs, s':>11}{'ratio':>8}   difference")
    with tempfile.TemporaryDirectory() as folder:
        theirs = build(case, Path(folder)).to(device)
        ours = videodit.load(folder, device=device, dtype=case.dtype, offload="none")
        theirs.set_progress_bar_config(disable=True)
        with torch.no_grad():
            for part in given["part"].split(","):
                PARTS[part](case, ours, theirs, int(given["rounds"]))


def build(case: Case, folder: Path) -> WanPipeline:
    """diffusers' pipeline with random weights, saved to the folder."""
    torch.manual_seed(0)
    own = train_tokenizer([PROMPT, NEGATIVE], folder / "words.json", vocabulary=256)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    text = UMT5Config(vocab_size=256, **case.text, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    pipe = WanPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(own.path), **special),
        text_encoder=UMT5EncoderModel(text).eval(),
        transformer=WanTransformer3DModel(attention_head_dim=128, **case.transformer).eval(),
        vae=AutoencoderKLWan().eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ).to(case.dtype)
    pipe.save_pretrained(folder)
    return pipe


def compare(name: str, rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    """Take turns; a line of the table. Returns our median time."""
    times: list[list[float]] = [[], []]
    outputs: list[Tensor] = []
    for number in range(rounds + 1):  # the first is not counted: pages, caches and compilers get warm
        for side, run in enumerate((ours, theirs)):
            gc.collect()
            start = clock()
            out = run()
            if number:
                times[side].append(clock() - start)
            else:
                outputs.append(out)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    mine, other = (statistics.median(side) for side in times)
    error = (outputs[0].float().cpu() - outputs[1].float().cpu()).abs().max().item()
    difference = f"{error:.1e} of {outputs[1].abs().max():.1f}"
    print(f"{name:<22}{mine:>9.2f}{other:>11.2f}{ratio:>8.2f}   {difference}", flush=True)
    return mine


def clock() -> float:
    """Seconds, when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def bench_text(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """Prompt and negative to states: theirs in two passes of 512 tokens, padding included."""

    def mine() -> Tensor:
        text = ours.encode([PROMPT, NEGATIVE])
        return text.streams["text"].states

    def other() -> Tensor:
        pair = theirs.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
        lengths = ours.parts.tokenizers["text"]([PROMPT, NEGATIVE])[1]
        return torch.cat([states[0, :length] for states, length in zip(pair, lengths, strict=True)])

    compare("text, a pair", rounds, mine, other)


def bench_encode(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """A clip to latents."""
    clip = torch.rand(1, 3, case.frames, case.height, case.width, device=ours.parts.device, dtype=case.dtype) * 2 - 1
    mean, std = _statistics(theirs, clip)
    compare(
        "VAE encode",
        rounds,
        lambda: torch.cat(list(ours.parts.vae.encode_chunks(clip.split(16, dim=2))), dim=2),
        lambda: (theirs.vae.encode(clip).latent_dist.mean - mean) / std,
    )


def bench_decode(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """Latents to a clip, in chunks of the usual size and of one latent frame."""
    mine, other = _decoders(case, ours, theirs)
    for name, way in (("VAE decode", ours.options.decoding), ("VAE decode, 1 a chunk", Way(1))):
        compare(name, rounds, partial(mine, way), other)


def bench_memory(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """The most memory that decoding takes above the weights, at one latent frame a chunk."""
    one, other = _decoders(case, ours, theirs)
    for part in (ours.parts.vae, theirs.vae):
        for parameter in part.parameters():  # mapped weights are read when first used: that is not decoding
            parameter.sum()
    mine, peak = memory(partial(one, Way(1))), memory(other)
    sizes = f"{mine / 2**30:>8.2f}G{peak / 2**30:>10.2f}G{mine / peak:>8.2f}"
    print(f"{'memory of VAE decode':<22}{sizes}   above the weights", flush=True)


def bench_length(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """Our memory of decoding 81 frames beside that of the case's, at one latent frame a chunk."""
    longer = replace(case, frames=81)
    long, short = (memory(partial(_decoders(one, ours, theirs)[0], Way(1))) for one in (longer, case))
    name = f"memory, {longer.frames} : {case.frames} frames"
    print(f"{name:<22}{long / 2**30:>8.2f}G{short / 2**30:>10.2f}G{long / short:>8.2f}   ours both", flush=True)


def _decoders(case: Case, ours: Any, theirs: WanPipeline) -> tuple[Callable[[Way], Tensor], Callable[[], Tensor]]:
    shape = (1, 16, 1 + (case.frames - 1) // 4, case.height // 8, case.width // 8)
    latents = torch.randn(shape, device=ours.parts.device, dtype=case.dtype)
    mean, std = _statistics(theirs, latents)
    return (
        lambda way: decode(ours.parts.vae, latents[0], way).clamp(-1, 1)[None],
        lambda: theirs.vae.decode(latents * std + mean).sample,
    )


def bench_dit(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """One step with guidance: both halves in one pack, theirs one after the other."""
    shape = (1, 16, 1 + (case.frames - 1) // 4, case.height // 8, case.width // 8)
    x = torch.randn(shape, device=ours.parts.device, dtype=case.dtype)
    time_ = torch.tensor([0.613], dtype=torch.float64)
    texts = ours.encode([PROMPT, NEGATIVE])
    velocity = ours.expert("dit", texts, time_, [5.0])
    states = theirs.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
    at = torch.tensor([613], device=x.device)

    def other() -> Tensor:
        a, b = (theirs.transformer(x, at, s.to(x.dtype)).sample for s in states)
        return b + 5.0 * (a - b)

    seconds = compare("DiT step", rounds, lambda: velocity([x[0]], time_)[0][None], other)
    tokens = 2 * (shape[2] * shape[3] * shape[4] // 4)
    flops = 2 * ours.parts.dit.flops(tokens // 2, texts.streams["text"].lengths[0])
    rate = f"{tokens / seconds:,.0f} tokens/s, {flops / seconds / 1e9:,.0f} GFLOP/s"
    print(f"{'':<22}{rate}" + (f", MFU {flops / seconds / PEAK:.2f}" if x.is_cuda else ""))


def bench_whole(case: Case, ours: Any, theirs: WanPipeline, rounds: int) -> None:
    """Prompt to clip."""
    size = {"height": case.height, "width": case.width}

    def mine() -> Tensor:
        request = {"frames": case.frames, "fps": 16.0, "steps": case.steps, "guidance": 5.0, "sampler": "unipc"}
        return ours(PROMPT, negative=NEGATIVE, seed=1, **size, **request).clip

    def other() -> Tensor:
        out = theirs(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            num_frames=case.frames,
            num_inference_steps=case.steps,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(1),
            output_type="pt",
            **size,
        )
        return out.frames[0].transpose(0, 1) * 2 - 1

    compare("whole", rounds, mine, other)


def memory(run: Callable[[], Any]) -> int:
    """The most memory that a call takes above what is held before it."""
    gc.collect()
    if not torch.cuda.is_available():
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before goes back, so that it counts when it is taken again
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _statistics(theirs: WanPipeline, like: Tensor) -> list[Tensor]:
    values = (theirs.vae.config[f"latents_{name}"] for name in ("mean", "std"))
    return [torch.tensor(v, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1) for v in values]


PARTS = {
    **{"text": bench_text, "encode": bench_encode, "decode": bench_decode, "memory": bench_memory},
    **{"length": bench_length, "dit": bench_dit, "whole": bench_whole},
}

if __name__ == "__main__":
    main(sys.argv[1:])
