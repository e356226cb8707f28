"""What the DiT is trained for: the loss against closed forms, and randomness that belongs to the clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import PIPELINE
from tests.train import tiny
from tests.train.runs import Memory, alone
from videodit.checkpoint.find import open_pipeline
from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_model
from videodit.data.batches import LatentBatch, PackBatches
from videodit.data.packing import Share, Work
from videodit.flow.path import PATHS
from videodit.models.pack import Context, Pack, Times, patchify
from videodit.models.text import TextEncoder, Tokenizer, train_tokenizer
from videodit.shapes import LatentShape
from videodit.train.dit_step import BINS, FlowObjective, TrainingTimes, by_size, by_time
from videodit.train.ema import EMA
from videodit.train.meter import Means

PATCH = (1, 2, 2)
SHAPES = ((3, 4, 4), (1, 4, 6), (2, 6, 4))  # 12, 6 and 12 tokens
CAPTIONS = ["a red ball rolls right", "a small cube", "a blue cone falls on a gray ground"]
KINDS = [(path, prediction) for path in PATHS for prediction in ("velocity", "noise", "clean")]


def _batch(places: Sequence[int] = (0, 1, 2)) -> LatentBatch:
    """Clips 100, 101 and 102 of a data set, or some of them."""
    batch = LatentBatch([], [], [])
    for place in places:
        generator = torch.Generator().manual_seed(place)
        batch.latents.append(torch.randn(tiny.CHANNELS, *SHAPES[place], generator=generator))
        batch.captions.append(CAPTIONS[place])
        batch.indices.append(100 + place)
    return batch


class Oracle(nn.Module):
    """Stands for a DiT: gives the answer it was told, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head, self.answer = PATCH, nn.Linear(1, 1), torch.zeros(())

    def prepare(self, context: Context, pack: Pack) -> None:
        pass

    def forward(self, pack: Pack, times: Times, session: None) -> Tensor:
        self.pack, self.t = pack, times.values[list(times.clip)]
        return self.answer.expand_as(pack.tokens)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(CAPTIONS, tmp_path_factory.mktemp("words") / TOKENIZERS["text"], vocabulary=64)


def _objective(
    tokenizer: Tokenizer, *, dit: nn.Module, path: str = "rectified", prediction: str = "velocity", **changes: Any
) -> FlowObjective:
    arguments = {
        "times": TrainingTimes(mean=0.0, std=1.0, shift={"base_tokens": 12, "base_shift": 1.0}),
        "drop": 0.0,
        "seed": 0,
        "pipeline": {},
        "frozen": {},
        "device": torch.device("cpu"),
    }
    encoders = [TextEncoder("text", tokenizer, tiny.text())]
    return FlowObjective(
        dit=dit, text_encoders=encoders, path=PATHS[path](prediction=prediction), **arguments | changes
    )


def _awake() -> nn.Module:
    """A DiT whose output is not the zero it starts with."""
    dit = tiny.dit()
    nn.init.normal_(dit.head.weight, std=0.2)
    return dit


@pytest.mark.parametrize(("path", "prediction"), KINDS)
def test_a_perfect_prediction_has_no_loss(tokenizer: Tokenizer, path: str, prediction: str) -> None:
    """And it is asked about alpha·x0 + sigma·noise at one time a clip."""
    oracle = Oracle()
    objective = _objective(tokenizer, dit=oracle, path=path, prediction=prediction)
    batch = _batch()
    objective.loss(batch, 7)
    noise, _ = objective.draw(batch, 7)
    x0, eps = patchify(batch.latents, PATCH).tokens, patchify(noise, PATCH).tokens
    t = oracle.t.repeat_interleave(torch.tensor(oracle.pack.lengths))[:, None]
    alpha, sigma = (1 - t, t) if path == "rectified" else objective.path.coefficients(t)
    torch.testing.assert_close(oracle.pack.tokens, (alpha * x0 + sigma * eps).float())
    velocity = eps - x0 if path == "rectified" else alpha * eps - sigma * x0
    oracle.answer = {"velocity": velocity.float(), "noise": eps, "clean": x0}[prediction]
    loss, parts = objective.loss(batch, 7)
    assert loss.item() < 1e-12 and all(value < 1e-12 for value in parts.all().values())
    oracle.answer = oracle.answer + 0.5
    assert objective.loss(batch, 7)[0].item() == pytest.approx(0.25, rel=1e-5)


def test_bins_of_time_and_of_size_are_partitions() -> None:
    """Every clip counts in one of each, by its own mean error; the times 0 and 1 are in the first and the last."""
    t = torch.tensor([0.0, 0.2499, 0.25, 0.6, 0.999999, 1.0], dtype=torch.float64)
    means = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = Means()
    by_time(found, means, t)
    assert found.all() == {
        "loss/t0-0.25": 1.5,
        "loss/t0.25-0.5": 3.0,
        "loss/t0.5-0.75": 4.0,
        "loss/t0.75-1": 5.5,
    }
    assert BINS == 4
    found = Means()
    by_size(found, means, [1, 2, 3, 4, 7, 8])
    assert found.all() == {
        "loss/tokens 1-1": 1.0,
        "loss/tokens 2-3": 2.5,
        "loss/tokens 4-7": 4.5,
        "loss/tokens 8-15": 6.0,
    }


def test_noise_and_time_belong_to_the_clip(tokenizer: Tokenizer) -> None:
    """Not to its place in the batch or to its neighbours; they change from batch to batch."""
    objective = _objective(tokenizer, dit=Oracle())
    noise, draws = objective.draw(_batch((0, 1, 2)), 5)
    turned, their_draws = objective.draw(_batch((2, 0)), 5)
    assert torch.equal(noise[2], turned[0]) and torch.equal(noise[0], turned[1])
    assert torch.equal(draws[[2, 0]], their_draws)
    later, later_draws = objective.draw(_batch((0, 1, 2)), 6)
    assert not torch.equal(noise[0], later[0]) and not torch.equal(draws, later_draws)
    other = _objective(tokenizer, dit=Oracle(), seed=1)
    assert not torch.equal(other.draw(_batch(), 5)[1], draws)


@pytest.mark.parametrize("parts", [((0,), (1,), (2,)), ((2, 0), (1,))])
def test_a_pack_is_its_clips_one_by_one(tokenizer: Tokenizer, parts: Sequence[Sequence[int]]) -> None:
    """Loss and gradients, weighed by tokens: how batches are cut changes nothing (accumulation rests on it)."""
    objective = _objective(tokenizer, dit=_awake(), drop=0.3)
    loss, _ = objective.loss(_batch(), 4)
    loss.backward()
    whole = {name: p.grad.clone() for name, p in objective.module.named_parameters() if p.grad is not None}
    objective.module.zero_grad()
    total, tokens = 0.0, objective.size(_batch())["tokens"]
    for places in parts:
        share = objective.size(_batch(places))["tokens"] / tokens
        part = objective.loss(_batch(places), 4)[0] * share
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    for name, p in objective.module.named_parameters():
        if name in whole:
            torch.testing.assert_close(p.grad, whole[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("drop", [0.0, 0.3, 1.0])
def test_captions_are_left_out_as_often_as_asked(tokenizer: Tokenizer, drop: float) -> None:
    """The empty caption takes their place; which ones is a function of seed, batch and clip."""

    class Listening:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def __call__(self, captions: Sequence[str]) -> Any:
            self.heard += captions
            return tokenizer(captions)

    listening = Listening()
    objective = _objective(listening, dit=Oracle(), drop=drop)
    for number in range(60):
        objective.loss(_batch(), number)
    assert set(listening.heard) <= {*CAPTIONS, ""}
    assert listening.heard.count("") / len(listening.heard) == pytest.approx(drop, abs=0.1)
    again = Listening()
    _objective(again, dit=Oracle(), drop=drop).loss(_batch(), 0)
    assert again.heard == listening.heard[:3]


FLAT = {"base_tokens": 80, "base_shift": 1.0}


def _assert_learns(objective: FlowObjective) -> None:
    """A few steps on one batch lower its loss."""
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss, _ = objective.loss(_batch(), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize(("path", "prediction"), KINDS)
def test_a_few_steps_lower_the_loss(tokenizer: Tokenizer, path: str, prediction: str) -> None:
    objective = _objective(tokenizer, dit=tiny.dit(), path=path, prediction=prediction)
    _assert_learns(objective)


@pytest.mark.parametrize("time", ["adaln_zero", "adaln", "cross", "in_context"])
def test_every_way_in_of_time_trains(tokenizer: Tokenizer, time: str) -> None:
    objective = _objective(tokenizer, dit=tiny.dit(time=time))
    _assert_learns(objective)


def test_the_text_encoder_is_trained_too(tokenizer: Tokenizer) -> None:
    """Once the DiT's own output layers are no longer zero, as after the first steps."""
    dit = _awake()
    for block in dit.blocks:
        nn.init.normal_(block.cross.out.weight, std=0.2)
    objective = _objective(tokenizer, dit=dit)
    objective.loss(_batch(), 0)[0].backward()
    text = objective.module["text"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in text.parameters() if p.dim() == 2)


def test_times_are_drawn_as_said() -> None:
    """sigmoid(mean + std·normal) or the uniform number itself, then shifted by the root of the tokens."""
    normal, even = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.5, 0.0, 1.0])
    plain = TrainingTimes(mean=0.5, std=2.0, shift=FLAT)(normal, even, [80, 80, 80])
    torch.testing.assert_close(plain, torch.sigmoid(0.5 + 2.0 * normal.double()))
    uniform = TrainingTimes(mean=0.5, std=0.0, shift=FLAT)(normal, even, [80, 80, 80])
    assert uniform[0] == 0.5 and ((0 < uniform) & (uniform < 1)).all() and uniform.dtype == torch.float64
    shifted = TrainingTimes(mean=0.0, std=1.0, shift=FLAT)(normal, even, [320, 80, 20])
    assert shifted[0].item() == pytest.approx(2 / 3)  # twice the shift: 2·0.5/(1 + 0.5)
    assert shifted[1].item() == pytest.approx(1 / (1 + math.exp(-1)))


class _Stored:
    """Latents for held-out packs."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        batch = _batch((index % 3,))
        return batch.latents[0], batch.captions[0]

    def shape(self, index: int) -> LatentShape:
        return LatentShape(*SHAPES[index % 3])


WHOLE = {"most": None, "patch": PATCH, "image": 0.0, "whole": 1.0, "work": Work(), "share": Share(), "seed": 0}


def test_the_held_out_loss_is_always_of_the_same_noise(tokenizer: Tokenizer) -> None:
    objective, tracker = _objective(tokenizer, dit=_awake()), Memory()
    packs = PackBatches(cache=_Stored(7), tokens=30, **WHOLE)
    for step in (10, 20):
        with torch.no_grad():
            objective.heldout(packs, alone(), tracker, step)
    (first, values), (second, again) = tracker.records
    assert (first, second) == (10, 20) and values == again
    assert values["heldout/loss"] > 0 and any(name.startswith("heldout/loss/t") for name in values)
    shapes = {name.removeprefix("heldout/loss/") for name in values if "x" in name}
    assert shapes == {"x".join(map(str, shape)) for shape in SHAPES}
    counts = {"3x4x4": 3 * 12, "1x4x6": 2 * 6, "2x6x4": 2 * 12}  # clips of each shape, times its tokens
    mean = sum(values[f"heldout/loss/{shape}"] * n for shape, n in counts.items()) / sum(counts.values())
    assert values["heldout/loss"] == pytest.approx(mean, rel=1e-5)


def test_no_held_out_clips_are_no_trouble(tokenizer: Tokenizer) -> None:
    tracker = Memory()
    packs = PackBatches(cache=_Stored(0), tokens=30, **WHOLE)
    _objective(tokenizer, dit=_awake()).heldout(packs, alone(), tracker, 1)
    assert tracker.column("heldout/loss") == []


def test_work_is_counted(tokenizer: Tokenizer) -> None:
    objective = _objective(tokenizer, dit=_awake())
    size = objective.size(_batch())
    assert (size["clips"], size["tokens"]) == (3.0, 30.0)
    one = objective.size(_batch((0,)))["flops"]
    weights = sum(p.numel() for p in objective.dit.blocks.parameters() if p.dim() == 2)
    assert 1.0 < one / (6 * weights * 12) < 1.6  # 6 flops a weight and token, attention and ends besides
    assert objective.size(LatentBatch([], [], []))["clips"] == 0


def test_what_is_published_is_a_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Averages, not the weights of the moment; beside the VAE and the words; torn copies are made anew."""
    vae_file, dit = tmp_path / "vae.safetensors", _awake()
    save_model(vae_file, tiny.vae())
    frozen = {"vae": Part.own(vae_file)}
    objective = _objective(tokenizer, dit=dit, pipeline=PIPELINE, frozen=frozen)
    ema, averaged = EMA(module=objective.module, decay=0.9), dit.head.weight.detach().clone()
    with torch.no_grad():
        dit.head.weight += 1
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / FILES["vae"]).write_bytes(vae_file.read_bytes()[:100])  # a copy that was killed
    objective.publish(model, ema.averages, 1)
    parts = open_pipeline(str(tmp_path / "run"), device="cpu", dtype=None)
    assert torch.equal(parts.dit.head.weight, averaged)
    assert torch.equal(parts.vae.encoder.conv_in.weight, tiny.vae().encoder.conv_in.weight)
    assert parts.pipeline == PIPELINE
