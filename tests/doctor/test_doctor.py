"""`videodit doctor`: what it says of a sound training, and of one with a fault that it knows nothing of."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.train import tiny
from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.store import save_model
from videodit.cli import doctor as cli_doctor
from videodit.cli.main import main
from videodit.data.batches import fetch
from videodit.data.video import write
from videodit.doctor import checks, visit
from videodit.doctor.captions import bag_of_words, captions_heard, order_counts
from videodit.flow.path import Path as FlowPath
from videodit.models import dit
from videodit.models.pack import Context
from videodit.models.text import train_tokenizer
from videodit.nn.kernels import attend
from videodit.plan.machine import Limit
from videodit.toy.grammar import caption
from videodit.toy.scenes import scene
from videodit.toy.world import ToyWorld
from videodit.train import init
from videodit.train.encode import calibrate
from videodit.train.init import find_vae, open_vae

SOUND = "nothing is wrong"
BACK = "it can be sampled back"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained VAE that begins with principal components and knows its latents' statistics."""
    place = tmp_path_factory.mktemp("doctor")
    world = ToyWorld(seed=0, size=24, frames=9, height=32, width=32, fps=8.0)
    clips = [sample.clip for _, sample in fetch(world, range(24))[0]]
    vae = tiny.vae()
    vae.start_linear(clips)
    calibrate(vae, clips, shared=True)
    save_model(place / "vae.safetensors", vae)
    return place


def doctor(place: Path, *overrides: str) -> list[str]:
    """The command on something tiny."""
    sizes = ["data.train.0.size=64", "data.train.1.size=16", "packs.tokens=1024", "doctor={steps: 120, ranks: false}"]
    where = [f"vae_from={place / 'vae.safetensors'}", f"cache={place / 'cache'}", "samples.prompts=[]", "workers=0"]
    return ["doctor", *tiny.COMMAND, *sizes, *where, *overrides]


def faults(text: str) -> set[str]:
    """Names of the checks that found a fault."""
    return {line[8:].split("  ")[0].strip() for line in text.splitlines() if line.startswith("FAULT")}


def test_a_sound_training_passes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows what it found; the run's folder is not touched."""
    page, run = place / "page.html", place / "run"
    assert main(doctor(place, f"out={page}", f"run_dir={run}")) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert SOUND in told and not faults(told) and told.count("\nok ") == 12
    assert page.read_text().count('<td class="good">ok</td>') == 12
    assert "data:image/png;base64," in page.read_text() and "<svg" in page.read_text()
    assert not run.exists()


@pytest.mark.slow
def test_shipped_experiments_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The smaller ones, with what must come before them stood in for, and two processes beside one."""
    for experiment in ("toy_smoke", "toy_smoke_vae"):
        assert main(["doctor", f"experiment={experiment}", f"run_dir={tmp_path / 'run'}"]) == 0, capsys.readouterr().out
        told = capsys.readouterr().out
        assert "\nok      two processes do what one does" in told and SOUND in told


def fails(command: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The faults that a run of the command names: in its lines, in the verdict and in the error."""
    assert main(command) == 2
    told = capsys.readouterr()
    found = faults(told.out)
    assert found and SOUND not in told.out
    assert all(name in told.err.splitlines()[-1] for name in found)
    return found


def test_a_parameter_frozen_by_mistake(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them, which what is learnt hardly shows."""
    initial = init.initial

    def careless(cfg: Any, base: Any, part: str, *rest: Any) -> nn.Module:
        network = initial(cfg, base, part, *rest)
        if part == "dit":
            network.blocks[1].ffn[0].weight.requires_grad_(False)
        return network

    monkeypatch.setattr(init, "initial", careless)
    assert fails(doctor(place), capsys) == {"gradients reach all that trains"}


@pytest.mark.slow
def test_parameters_frozen_on_purpose(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(doctor(place, "freeze=[dit.blocks.1.ffn]")) == 0
    assert SOUND in capsys.readouterr().out


@pytest.mark.slow
def test_captions_of_other_clips(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    getitems = ToyWorld.__getitems__

    def shuffled(self: ToyWorld, indices: list[int]) -> list[Any]:
        samples, others = getitems(self, indices), getitems(self, [(5 * i + 3) % self.size for i in indices])
        for sample, other in zip(samples, others, strict=True):
            sample.caption = other.caption
        return samples

    monkeypatch.setattr(ToyWorld, "__getitems__", shuffled)
    assert fails(doctor(place, f"cache={place / 'shuffled'}"), capsys) == {"captions tell of the clips"}


def test_a_text_encoder_that_sees_bags_of_words(tmp_path: Path) -> None:
    """Without position biases attention does not know the order; saturated, it does not matter."""
    captions = [caption(scene(0, i, split="train"), 0, i) for i in range(24)]
    tokenizer = train_tokenizer(captions, tmp_path / "tokenizer.json", vocabulary=128)
    encoder = tiny.text(vocabulary=128)
    encode = lambda said: Context({"text": encoder(*tokenizer(list(said)))})  # noqa: E731
    assert order_counts(encode, captions).verdict == "ok"
    assert order_counts(encode, ["a red cube"]).verdict == "unknown"
    encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.zero_()
    found = order_counts(encode, captions)
    assert found.verdict == "FAULT" and "by 0.0 %" in found.told and "bags of words" in found.told


@pytest.mark.slow
def test_captions_of_one_token(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a sentence without blanks is to a tokenizer that splits at blanks."""
    getitems = ToyWorld.__getitems__

    def joined(self: ToyWorld, indices: list[int]) -> list[Any]:
        samples = getitems(self, indices)
        for sample in samples:
            sample.caption = sample.caption.replace(" ", "").replace(",", "")
        return samples

    monkeypatch.setattr(ToyWorld, "__getitems__", joined)
    assert "captions are heard" in fails(doctor(place, f"cache={place / 'joined'}"), capsys)


@pytest.mark.parametrize(
    ("captions", "frozen", "verdict"),
    [
        (["a b", "c d", "e", "f"], False, "ok"),
        (["a b", "c", "e", "f"], False, "FAULT"),
        (["c", "", "", ""], False, "FAULT"),
        (["", ""], False, "unknown"),
        (["a b", "? d"], False, "ok"),
        (["a b", "? d"], True, "FAULT"),
        (["a b c d e", "f g h i ?"], True, "ok"),
    ],
)
def test_what_is_heard_of_captions(captions: list[str], frozen: bool, verdict: str) -> None:
    words = [[(word, word != "?") for word in caption.split()] for caption in captions]
    assert captions_heard(words, frozen=frozen).verdict == verdict


def test_words_of_scripts_without_blanks_are_letters() -> None:
    captions = [("红球 left", "蓝球 right")[i % 2] for i in range(12)]
    assert bag_of_words(captions).sum(1).tolist() == [2.0] * 12  # a colour and a side; the ball is in all of them


@pytest.mark.slow
def test_a_target_of_the_other_sign(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss falls as it should; what is sampled is not the clip."""
    target = FlowPath.target
    monkeypatch.setattr(FlowPath, "target", lambda *given: -target(*given))
    assert fails(doctor(place), capsys) == {BACK}


@pytest.mark.slow
def test_latents_that_are_not_normalised(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae = open_vae(find_vae(str(place)))
    vae.std /= 6
    save_model(place / "other" / "vae.safetensors", vae)
    assert "latents are normalised" in fails(doctor(place, f"vae_from={place / 'other'}"), capsys)


@pytest.mark.slow
def test_a_learning_rate_a_hundred_times_too_high(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["optim.make.lr=0.1", "optim.make.text_lr=0.02", "optim.make.muon_lr=0.3"]
    found = fails(["doctor", "experiment=toy_smoke", f"run_dir={tmp_path}", "doctor.ranks=false", *rates], capsys)
    assert "the first steps do no harm" in found  # whether one clip can still be learnt is the machine's arithmetic


@pytest.mark.parametrize(
    ("before", "after", "losses", "said"),
    [
        (0.012, 0.017, [0.008, 0.041, 0.031], "ok"),  # the first step's clips are easy ones
        (0.012, 0.019, [0.008, 0.041, 0.031], "FAULT"),
        (0.012, 0.012, [0.008, 0.541, 0.011], "FAULT"),
        (0.012, math.nan, [0.008, 0.041, 0.031], "FAULT"),
        (0.012, 0.012, [0.008, math.nan, 0.011], "FAULT"),
        (math.inf, math.inf, [math.inf, math.inf], "FAULT"),
    ],
)
def test_first_steps_may_do_a_little_harm(before: float, after: float, losses: list[float], said: str) -> None:
    assert checks.harmless(before, after, losses, 1.5).verdict == said


BRIEF = "doctor={steps: 20, first_steps: 4, ranks: false}"


@pytest.mark.slow
def test_a_learning_rate_of_nearly_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["optim=adamw", "optim.make.lr=1e-9", "optim.make.text_lr=1e-9"]
    assert "one clip can be learnt" in fails(doctor(place, BRIEF, *rates), capsys)


@pytest.mark.slow
def test_clips_that_see_each_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a kernel would have it that loses the lengths."""

    def careless(q: Any, k: Any, v: Any, q_lengths: Any, k_lengths: Any, **rest: Any) -> torch.Tensor:
        return attend(q, k, v, (sum(q_lengths),), (sum(k_lengths),), **rest)

    monkeypatch.setattr(dit, "attend", careless)
    assert "a pack is its clips one by one" in fails(doctor(place), capsys)


def test_a_step_that_does_not_fit(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(visit, "limits", lambda device: [Limit("a small machine", 2**20)])
    assert fails(doctor(place, BRIEF), capsys) >= {"a step fits into memory"}


@pytest.mark.slow
def test_clips_that_come_too_late(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    getitem = LatentCache.__getitem__
    monkeypatch.setattr(LatentCache, "__getitem__", lambda self, index: (time.sleep(0.1), getitem(self, index))[1])
    assert fails(doctor(place, BRIEF), capsys) >= {"clips are read in time"}


def test_processes_that_do_not_agree() -> None:
    losses = [2.0, 1.5, 1.2, 1.0]
    assert checks.ranks_agree(losses, [2.001, 1.49, 1.21, 1.02]).verdict == "ok"
    assert checks.ranks_agree(losses, [2.05, 1.5, 1.2, 1.0]).verdict == "FAULT"  # other clips, from the first step
    assert checks.ranks_agree(losses, [2.0, 1.5, 1.3, 1.1]).verdict == "FAULT"  # other gradients


def test_data_of_which_half_cannot_be_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = place / "clips"
    root.mkdir()
    lines = []
    for number in range(8):
        clip = np.full((9, 32, 32, 3), 25 * number, dtype=np.uint8)
        clip[:, 8:16, 8:16, number % 3] = 250
        write(root / f"{number}.mp4", clip, 8.0)
        if number % 2:
            (root / f"{number}.mp4").write_bytes((root / f"{number}.mp4").read_bytes()[:300])
        lines.append(json.dumps({"file_name": f"{number}.mp4", "caption": f"square number {number}"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    networks = [override for override in doctor(place) if not override.startswith("data")]
    folder = ["data=videofolder", f"data.root={root}", f"data.heldout_root={root}"]
    command = [*networks, *folder, "data.frames=9", "data.area=1024"]
    assert main(command) == 2
    told = capsys.readouterr().out
    assert faults(told) == {"clips can be read"} and "4 of 8 clips" in told and f"such as {root / '1.mp4'}" in told
    assert "unknown captions tell" in told


def test_a_training_that_cannot_be_built(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(doctor(place, "flow=rectified", "model.channels=5")) == 2
    told = capsys.readouterr()
    assert faults(told.out) == {"it can be built and run"} and "4 channels, not 5" in told.out


def folder_of(root: Path, captions: list[str], frames: int = 9) -> list[str]:
    """Clips of squares with these captions, and the keys that name them; the same clips are held out."""
    root.mkdir()
    lines = []
    for number, said in enumerate(captions):
        clip = np.full((frames, 32, 32, 3), 25 + 20 * number, dtype=np.uint8)
        clip[:, 8:16, 4 * (number % 6) : 4 * (number % 6) + 8, number % 3] = 250
        write(root / f"{number}.mp4", clip, 8.0)
        lines.append(json.dumps({"file_name": f"{number}.mp4", "caption": said}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return ["data=videofolder", f"data.root={root}", f"data.heldout_root={root}", "data.frames=9", "data.area=1024"]


def on_folder(place: Path, *keys: str) -> list[str]:
    """The command on a folder of clips."""
    return [*(override for override in doctor(place, BRIEF) if not override.startswith("data")), *keys]


GRADIENTS = "gradients reach all that trains"


def verdicts(text: str) -> dict[str, str]:
    """The verdict of each check."""
    kinds = ("ok", "FAULT", "unknown")
    return {line[8:].split("  ")[0].strip(): line.split()[0] for line in text.splitlines() if line.startswith(kinds)}


def test_a_clip_with_a_caption_is_learnt_where_there_is_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cheapest clip, an image, has none."""
    keys = folder_of(place / "some", ["", "", "a red square on the left", ""])
    main(on_folder(place, *keys))
    assert verdicts(capsys.readouterr().out)[GRADIENTS] == "ok"


def test_without_captions_it_cannot_tell_of_what_hears_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(on_folder(place, *folder_of(place / "none", [""] * 4)))
    told = capsys.readouterr().out
    assert verdicts(told)[GRADIENTS] == "unknown" and "no clip has a caption" in told
    assert {verdicts(told)[name] for name in ("captions are heard", "captions tell of the clips")} == {"unknown"}


def test_a_parameter_that_learns_nothing_without_captions_either(place: Path) -> None:
    """What is silent though it hears no words is told, where nothing at all has a gradient."""
    network = nn.Linear(2, 2)
    deaf = checks.gradients_reach(network, {"weight", "bias"}, checks.Overfitted([1.0], {"bias"}), deaf=True)
    assert deaf.verdict == "unknown"
    dead = checks.gradients_reach(network, {"weight", "bias"}, checks.Overfitted([1.0], set()), deaf=True)
    assert dead.verdict == "FAULT"


def test_checks_are_announced_and_inner_runs_are_quiet(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(doctor(place, BRIEF))
    told = capsys.readouterr()
    found = sum(line.startswith(("ok ", "FAULT ", "unknown ")) for line in told.out.splitlines())
    announced = [line for line in told.err.splitlines() if line.startswith("check ")]
    assert [line.split(":")[0] for line in announced] == [f"check {i} of {found}" for i in range(1, found + 1)]
    others = [line for line in told.err.splitlines() if not line.startswith(("check ", "videodit: error"))]
    assert not others, "neither hydra, nor progress, nor a tracker"


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (1.9, 0, 0))
    assert not cli_doctor.busy()
    monkeypatch.setattr("os.getloadavg", lambda: (7.25, 0, 0))
    assert "a load of 7.2 on 2 cores" in cli_doctor.busy() and "not to be trusted" in cli_doctor.busy()


def test_a_few_clips_need_not_be_like_all_that_a_vae_knows() -> None:
    dark = [torch.randn(4, 3, 2, 2) - 2 for _ in range(checks.ALIKE)]
    assert checks.normalised(dark).verdict == "FAULT" and checks.normalised(dark[:3]).verdict == "unknown"
    assert checks.normalised([x + 2 for x in dark[:3]]).verdict == "ok"
