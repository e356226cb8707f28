"""The DiT: a pack equals its clips alone, in value and gradient, for every kernel and every way that time enters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.compare import assert_equal, denoised, distance, noise, shaken
from videodit.errors import InputError
from videodit.models.dit import TIME_MODES, DiT
from videodit.models.pack import Pack, Ragged, patchify

KERNELS = ("sdpa", "reference")  # those that run forward and backward on any machine
ADALN = [mode for mode in TIME_MODES if mode.startswith("adaln")]
CHANNELS, TEXT_DIM, PATCH = 3, 10, (1, 2, 2)
ARGUMENTS = {
    **{"channels": CHANNELS, "out_channels": CHANNELS, "patch": PATCH},
    **{"dim": 24, "layers": 2, "heads": 2, "ffn": 40, "text_dim": TEXT_DIM, "frequency_dim": 16},
    **{"time": "adaln_single", "qk_norm": "full", "cross_norm": True},
    **{"text_length": 0, "norm": "layer", "qk_eps": 1e-6, "fractions": None},
}
PACKS = {  # latent sizes, text lengths
    "five sizes": (((1, 2, 2), (2, 4, 2), (3, 4, 6), (1, 8, 2), (2, 2, 6)), (3, 1, 9, 5, 2)),
    "equal": (((2, 4, 2),) * 3, (4,) * 3),
}


def make(time: str = "adaln_single", **changes: object) -> DiT:
    """A DiT in fp64 (rotations and the time's sinusoid are fp32 all the same) whose branches are all open."""
    torch.manual_seed(0)
    return shaken(DiT(**{**ARGUMENTS, "time": time, **changes})).double()


def inputs(name: str = "five sizes", *, per_token: bool = False) -> list[tuple[Pack, Tensor, Ragged]]:
    """Each clip's pack, times and text."""
    clips = []
    for i, (size, states) in enumerate(zip(*PACKS[name], strict=True)):
        pack = patchify([noise(CHANNELS, *size, seed=i).double()], PATCH)
        t = noise(*(pack.lengths if per_token else (1,)), seed=50 + i).sigmoid().double()
        clips.append((pack, t, Ragged(noise(states, TEXT_DIM, seed=100 + i).double(), (states,))))
    return clips


def together(clips: list[tuple[Pack, Tensor, Ragged]]) -> tuple[Pack, Tensor, Ragged]:
    packs, times, texts = zip(*clips, strict=True)
    tokens, positions = torch.cat([pack.tokens for pack in packs]), torch.cat([pack.positions for pack in packs])
    pack = Pack(tokens, positions, tuple(pack.lengths[0] for pack in packs))
    return (
        pack,
        torch.cat(times),
        Ragged(torch.cat([text.states for text in texts]), tuple(t.lengths[0] for t in texts)),
    )


def gradients(model: DiT, velocity: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of the velocity."""
    model.zero_grad()
    (velocity * noise(*velocity.shape, seed=7)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize(
    ("time", "per_token"), [*((mode, False) for mode in TIME_MODES), *((mode, True) for mode in ADALN)]
)
def test_a_pack_equals_its_clips_alone(name: str, time: str, per_token: bool, kernel: str) -> None:
    model, clips = make(time), inputs(name, per_token=per_token)
    packed = denoised(model, *together(clips), kernel=kernel)
    alone = torch.cat([denoised(model, *clip, kernel=kernel) for clip in clips])
    assert alone.std() > 0.1
    assert_equal(packed, alone)
    expected = gradients(model, alone)
    for parameter, gradient in gradients(model, packed).items():
        assert gradient is not None and gradient.any(), f"{parameter} does nothing"
        assert_equal(gradient, expected[parameter])


@pytest.mark.parametrize("changes", [{"qk_norm": "head"}, {"cross_norm": False}, {"patch": (2, 1, 2)}], ids=str)
def test_other_choices_pack_as_well(changes: dict) -> None:
    model = make(**changes)
    latents = [noise(CHANNELS, *size, seed=i).double() for i, size in enumerate(((2, 2, 4), (4, 2, 2)))]
    text = [noise(n, TEXT_DIM, seed=i).double() for i, n in enumerate((3, 5))]
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    packed = denoised(model, patchify(latents, model.patch), t, Ragged(torch.cat(text), (3, 5)))
    alone = [
        denoised(model, patchify([latents[i]], model.patch), t[i : i + 1], Ragged(text[i], (len(text[i]),)))
        for i in (0, 1)
    ]
    assert_equal(packed, torch.cat(alone))


@pytest.mark.parametrize("time", TIME_MODES)
def test_clip_text_and_time_all_matter(time: str) -> None:
    """And only one's own: another clip's change nothing."""
    model, clips = make(time).requires_grad_(False), inputs()
    before = denoised(model, *together(clips))
    pack, t, text = clips[2]
    for changed in (
        (Pack(pack.tokens.flip(0), pack.positions, pack.lengths), t, text),
        (Pack(pack.tokens, pack.positions.flip(1), pack.lengths), t, text),
        (pack, 1 - t, text),
        (pack, t, Ragged(-text.states, text.lengths)),
    ):
        parts = zip(
            denoised(model, *together([*clips[:2], changed, *clips[3:]])).split(together(clips)[0].lengths),
            before.split(together(clips)[0].lengths),
            strict=True,
        )
        for i, (after, was) in enumerate(parts):
            assert distance(after, was) > 1e-3 if i == 2 else distance(after, was) <= 1e-5


@pytest.mark.parametrize("time", ADALN)
def test_a_time_for_each_token_may_be_the_same_for_all(time: str) -> None:
    model = make(time).requires_grad_(False)
    pack, t, text = together(inputs())
    per_token = t.repeat_interleave(torch.tensor(pack.lengths))
    assert_equal(denoised(model, pack, per_token, text), denoised(model, pack, t, text))
    per_token[: pack.lengths[0]] = 0
    assert distance(denoised(model, pack, per_token, text), denoised(model, pack, t, text)) > 1e-3


@pytest.mark.parametrize("time", ["cross", "in_context"])
def test_modes_that_take_no_time_per_token_say_so(time: str) -> None:
    pack, t, text = together(inputs(per_token=True))
    with pytest.raises(InputError, match=f"time={time} takes one time a clip, not one a token"):
        denoised(make(time), pack, t, text)


@pytest.mark.parametrize("wrong", [{"time": "film"}, {"qk_norm": "layer"}], ids=str)
def test_unknown_choices_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="|".join(f"{name}={value}" for name, value in wrong.items())):
        DiT(**{**ARGUMENTS, **wrong})


@pytest.mark.parametrize("time", TIME_MODES)
def test_it_starts_as_zero_and_every_block_as_the_identity(time: str) -> None:
    torch.manual_seed(0)
    model = DiT(**{**ARGUMENTS, "time": time}).double().requires_grad_(False)
    pack, t, text = together(inputs())
    assert not denoised(model, pack, t, text).any()
    torch.nn.init.normal_(model.head.weight)
    shift = scale = model.time_embed(t).repeat_interleave(torch.tensor(pack.lengths), dim=0)
    expected = model.head(model.norm_out(model.embed(pack.tokens)) * (1 + scale) + shift)
    assert_equal(denoised(model, pack, t, text), expected, tolerance=1e-9)


@pytest.mark.parametrize("time", ["adaln_single", "adaln_zero", "adaln", "cross"])
def test_only_differences_of_positions_matter(time: str) -> None:
    model = make(time).requires_grad_(False)
    pack, t, text = together(inputs())
    moved = Pack(pack.tokens, pack.positions + torch.tensor([3, 1, 7]), pack.lengths)
    assert_equal(denoised(model, moved, t, text), denoised(model, pack, t, text))


def test_time_in_context_is_one_more_token_that_no_position_turns() -> None:
    model = make("in_context").requires_grad_(False)
    seen = {}

    def look(block: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        seen.update(x=args[0], rope=kwargs["rope"], lengths=kwargs["pairs"][0].span.lengths)

    model.blocks[0].register_forward_pre_hook(look, with_kwargs=True)
    pack, t, text = together(inputs())
    denoised(model, pack, t, text)
    assert seen["lengths"] == tuple(n + 1 for n in pack.lengths)
    last = torch.tensor(seen["lengths"]).cumsum(0) - 1
    assert torch.equal(seen["x"][last], model.time_embed(t))
    assert torch.equal(seen["rope"][last], torch.ones_like(seen["rope"][last]))


@pytest.mark.parametrize("time", TIME_MODES)
@pytest.mark.parametrize(("tokens", "states"), [((2, 8, 8), 20), ((4, 16, 16), 5)], ids=str)
def test_flops_are_those_that_torch_counts(time: str, tokens: tuple[int, int, int], states: int) -> None:
    model = make(time, dim=48, heads=4, ffn=128).float()
    pack = patchify([noise(CHANNELS, *tokens)], PATCH)
    text = Ragged(noise(states, TEXT_DIM), (states,))
    with FlopCounterMode(display=False) as counter:  # with gradients: it does not know oneDNN's own operations
        denoised(model, pack, torch.tensor([0.5], dtype=torch.float64), text, kernel="reference")
    assert model.flops(pack.lengths[0], states) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_bf16_autocast_stays_near_fp32() -> None:
    model = make().float().requires_grad_(False)
    pack, t, text = together(inputs())
    pack, text = Pack(pack.tokens.float(), pack.positions, pack.lengths), Ragged(text.states.float(), text.lengths)
    truth = denoised(model, pack, t, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(denoised(model, pack, t, text).float(), truth, tolerance=0.05)
