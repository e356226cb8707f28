"""The loop: accumulation, bad numbers, what is recorded, saved, sampled and stopped."""

from __future__ import annotations

import json
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.runs import Memory, Regression, Rows, batches, clips, run, weights
from videodit.errors import InputError, Interrupted
from videodit.settings import read
from videodit.train.meter import Means, Meter
from videodit.train.optim import Optimizer, adamw, muon
from videodit.train.settings import Loop


def test_the_loss_falls_and_everything_is_recorded(tmp_path: Path) -> None:
    tracker, objective = Memory(), Regression()
    trained = run(tmp_path, objective=objective, tracker=tracker, steps=30, log_every=5)
    trained.fit()
    losses = tracker.column("loss")
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert [step for step, _ in tracker.records] == [5, 10, 15, 20, 25, 30]
    assert set(tracker.records[0][1]) >= {
        "gradient norm", "gradient norm/blocks.0-0", "lr/adamw", "EMA distance", "memory GiB", "balance",
        "clips/s", "tokens/s", "data wait", "skipped clips", "skipped updates",
    }  # fmt: skip
    assert (tracker.started, tracker.finished) == ([0], [False])
    assert trained.seen == {"clips": 90.0, "tokens": 270.0}
    assert objective.published[-1] == tmp_path / "model"


def _merged(start: int, stop: int) -> Iterator[list[Rows]]:
    """The same clips in one batch."""
    for number in range(start, stop):
        yield [Rows([clip for part in range(2) for clip in clips(number * 2 + part)])]


def _even(start: int, stop: int) -> Iterator[list[Rows]]:
    for number in range(start, stop):
        yield [Rows(clips(number * 2 + part)) for part in range(2)]


def _uneven(start: int, stop: int) -> Iterator[list[Rows]]:
    """Of very different sizes, and one for company."""
    for number in range(start, stop):
        pair = clips(number * 2) + clips(number * 2 + 1)
        yield [Rows(pair[:1]), Rows(pair[1:]), Rows(clips(99), idle=True)]


@pytest.mark.parametrize("source", [_even, _uneven])
def test_the_batches_of_a_step_are_one_larger_batch(tmp_path: Path, source: Callable) -> None:
    """Also where the parts hold different numbers of tokens."""
    some, all_at_once = Memory(), Memory()
    parts = run(tmp_path / "a", source=source, tracker=some)
    whole = run(tmp_path / "b", source=_merged, tracker=all_at_once)
    for each in (parts, whole):
        each.fit()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    assert some.column("loss") == pytest.approx(all_at_once.column("loss"), rel=1e-5)
    assert parts.seen == whole.seen


def test_the_step_seeds_what_is_random(tmp_path: Path) -> None:
    """Of all its batches: what tells them apart is the clips' own numbers."""
    objective = Regression()
    run(tmp_path, objective=objective, source=_even, steps=4).fit()
    assert objective.numbers == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_number_that_is_not_always_there_has_its_own_mean(tmp_path: Path) -> None:
    tracker = Memory()
    run(tmp_path, tracker=tracker, steps=4, log_every=4, save_every=4).fit()
    each = Memory()
    run(tmp_path / "each", tracker=each, steps=4, save_every=4).fit()
    losses = each.column("loss")
    assert tracker.column("loss") == pytest.approx([sum(losses) / 4])
    assert tracker.column("even/loss") == pytest.approx([(losses[0] + losses[2]) / 2])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_is_skipped_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    """The weights, averages and optimizer of the step stay as they were, and the run goes on."""
    tracker = Memory()
    trained = run(tmp_path, objective=Regression(poison={3: value}), tracker=tracker)
    before = {}
    advance = trained.advance

    def watched(micro: list) -> object:
        before[trained.step] = weights(trained).clone()
        return advance(micro)

    trained.advance = watched
    trained.fit()
    assert torch.equal(before[3], before[4]) and not torch.equal(before[4], before[5])
    assert (trained.bad, trained.bad_total, trained.step) == (0, 1, 6)
    assert tracker.column("skipped updates") == [0, 0, 0, 1, 1, 1]
    assert len(tracker.column("loss")) == 5 and all(map(math.isfinite, tracker.column("loss")))
    assert "step 3: loss" in capsys.readouterr().err
    assert torch.isfinite(weights(trained)).all()


def test_a_bad_gradient_is_skipped_too(tmp_path: Path) -> None:
    trained = run(tmp_path)
    trained.objective.module.blocks[0].weight.register_hook(
        lambda grad: grad * (math.nan if trained.step == 1 else 1.0)
    )
    trained.fit()
    assert trained.bad_total == 1 and torch.isfinite(weights(trained)).all()


def test_several_bad_steps_in_a_row_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one line, the checkpoint before intact, and a tracker that knows."""
    tracker = Memory()
    diverged = run(tmp_path, objective=Regression(poison=dict.fromkeys(range(3, 9), math.nan)), tracker=tracker)
    with pytest.raises(InputError, match="3 updates in a row had a non-finite loss") as error:
        diverged.fit()
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert tracker.finished == [True]

    assert [path.name for path in diverged.checkpoints.folders()] == ["step-000000002"]
    assert "step-000000002 is the last sound checkpoint" in str(error.value)

    mended = run(tmp_path)  # such as with a lower learning rate
    mended.fit()
    assert mended.bad_total == 0  # step 3 is done again: no checkpoint came after it
    assert torch.isfinite(weights(mended)).all()


def test_a_checkpoint_of_which_nothing_finite_comes_goes(tmp_path: Path) -> None:
    """The step before looked fine, its update broke the weights, and they were saved: the one before is left."""
    poison = dict.fromkeys(range(2, 9), math.nan)
    diverged = run(tmp_path, objective=Regression(poison=poison), save_every=1)
    with pytest.raises(InputError, match="step-000000001 is the last sound checkpoint"):
        diverged.fit()
    assert [path.name for path in diverged.checkpoints.folders()] == ["step-000000001"]
    mended = run(tmp_path, save_every=1)
    mended.fit()
    assert mended.step == 6 and json.loads((tmp_path / "made.json").read_text())["model"]["step"] == 6


def test_what_nothing_is_known_of_stays_and_is_named(tmp_path: Path) -> None:
    """A start whose first losses are not finite cannot tell whether its checkpoint or its data are at fault."""
    run(tmp_path, steps=2).fit()
    again = run(tmp_path, objective=Regression(poison=dict.fromkeys(range(2, 9), math.nan)))
    with pytest.raises(InputError, match="step-000000002, from which it began, may be broken: delete that"):
        again.fit()
    assert len(again.checkpoints.folders()) == 1
    fresh = run(tmp_path / "new", objective=Regression(poison=dict.fromkeys(range(9), math.nan)))
    with pytest.raises(InputError, match="there is no checkpoint before it"):
        fresh.fit()


def test_a_bad_step_delays_a_checkpoint(tmp_path: Path) -> None:
    """And a run that ends in one is not complete."""
    trained = run(tmp_path, objective=Regression(poison={1: math.nan}), steps=4)
    saved: list[int] = []
    save = trained.save
    trained.save = lambda: (saved.append(trained.step), save())
    trained.fit()
    assert saved == [3, 4]
    ends = run(tmp_path / "other", objective=Regression(poison={3: math.nan}), steps=4)
    with pytest.raises(InputError, match=r"1 updates in a row .* \(step 4\)"):
        ends.fit()
    assert [path.name for path in ends.checkpoints.folders()] == ["step-000000002"]


def test_bad_steps_that_are_not_in_a_row_do_not_stop_it(tmp_path: Path) -> None:
    poison = dict.fromkeys((0, 1, 3, 4, 6, 7), math.inf)
    trained = run(tmp_path, objective=Regression(poison=poison), steps=9)
    trained.fit()
    assert trained.bad_total == 6


def test_a_step_without_clips_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unreadable clips are counted every time, told once, and kept with path and reason."""

    def source(start: int, stop: int) -> Iterator[list[Rows]]:
        for number in range(start, stop):
            bad = Rows(clips(number), [("a/bad.mp4", "not a video: no moov")], idle=True)
            yield [bad] if number % 3 == 1 else [Rows(clips(number))]

    tracker = Memory()
    trained = run(tmp_path, source=source, tracker=tracker)
    trained.fit()
    assert trained.skipped == {"not a video": 2} and trained.bad_total == 0
    assert len(tracker.column("loss")) == 4 and tracker.column("skipped clips")[-1] == 2
    assert tracker.column("skipped clips/not a video")[-1] == 2
    assert capsys.readouterr().err.count("skipped a/bad.mp4: not a video: no moov") == 1
    told = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert told == [{"step": 1, "path": "a/bad.mp4", "reason": "not a video: no moov"}]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("source", [batches, _uneven])
def test_resuming_is_exact(tmp_path: Path, kind: str, source: Callable) -> None:
    """Stopped after any step, at a checkpoint or between two, it ends with the same bits."""

    def make(module: nn.Module) -> Optimizer:
        curve = {"lr": 0.01, "text_lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1,
                 "curve": lambda step: 1 / (1 + step)}  # fmt: skip
        return adamw(module, **curve) if kind == "adamw" else muon(module, muon_lr=0.02, **curve)

    tracker = Memory()
    whole = run(tmp_path / "whole", make=make, tracker=tracker, source=source, steps=7)
    whole.fit()

    def stopping(start: int, stop: int) -> Iterator[list[Rows]]:
        for number in range(start, stop):
            if number == 5:
                raise KeyboardInterrupt
            yield from source(number, number + 1)

    again = Memory()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", make=make, source=stopping, steps=7).fit()
    cut = run(tmp_path / "cut", make=make, tracker=again, source=source, steps=7)
    cut.fit()
    assert again.started == [4]
    assert again.column("loss") == tracker.column("loss")[4:]
    assert torch.equal(weights(cut), weights(whole))
    assert cut.seen == whole.seen
    ours, theirs = cut.optimizer.state(), whole.optimizer.state()
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    run(tmp_path).fit()
    objective = Regression()
    run(tmp_path, objective=objective).fit()
    assert objective.numbers == []


def test_resuming_another_model_or_optimizer_is_an_input_error(tmp_path: Path) -> None:
    run(tmp_path).fit()
    larger = Regression()
    larger.module.blocks.append(nn.Linear(2, 2))
    other = run(tmp_path, steps=9, objective=larger)
    with pytest.raises(InputError, match=f"{tmp_path}.* is of another model.*fresh=true"):
        other.fit()

    def make(module: nn.Module) -> Optimizer:
        rates = {"lr": 0.1, "text_lr": 0.1, "muon_lr": 0.1}
        return muon(module, **rates, betas=(0.9, 0.9), weight_decay=0.0, curve=lambda step: 1.0)

    with pytest.raises(InputError, match="optimizer is not Muon"):
        run(tmp_path, make=make, steps=9).fit()


def test_samples_are_made_with_the_averages(tmp_path: Path) -> None:
    seen = {}
    trained = run(tmp_path, steps=5, sample_every=2, sample=lambda step: seen.setdefault(step, look()) and None)

    def look() -> tuple[bool, bool, torch.Tensor]:
        module = trained.objective.module
        return module.training, torch.is_grad_enabled(), module.blocks[0].weight.clone()

    plain = run(tmp_path / "plain", steps=5)
    trained.fit()
    plain.fit()
    assert list(seen) == [2, 4, 5]
    assert all(not training and not grad for training, grad, _ in seen.values())
    assert torch.equal(seen[5][2], trained.ema.averages["blocks.0.weight"])
    assert trained.objective.module.training and torch.equal(weights(trained), weights(plain))


def test_bf16_is_autocast_and_fp32_is_nothing(tmp_path: Path) -> None:
    """Nor does fp32 give a warning about autocast on a CPU."""
    for precision in (torch.float32, torch.bfloat16):
        seen = set()
        trained = run(tmp_path / str(precision), precision=precision, steps=1)
        trained.objective.module.blocks[0].register_forward_hook(lambda m, i, out, seen=seen: seen.add(out.dtype))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*autocast.*")
            trained.fit()
        assert seen == {precision}
        assert trained.objective.module.blocks[0].weight.dtype == torch.float32


def test_gradients_are_clipped(tmp_path: Path) -> None:
    norms = []
    trained = run(tmp_path, clip_norm=0.01, steps=3)
    step = trained.optimizer.step

    def watched(number: int) -> dict[str, float]:
        norms.append(torch.stack([p.grad.norm() for p in trained.optimizer.parts.values()]).norm().item())
        return step(number)

    trained.optimizer.step = watched
    trained.fit()
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"save_every": 0}, {"log_every": -1}, {"max_bad": 1.5}, {"clip_norm": 0}]
)
def test_settings_that_make_no_sense_are_named(wrong: dict) -> None:
    fine = dict.fromkeys(("steps", "max_bad", "log_every", "save_every", "sample_every"), 1)
    with pytest.raises(InputError, match=f"loop.{next(iter(wrong))}="):
        read(Loop, {**fine, "clip_norm": 1.0, **wrong}, "loop")


def test_means_and_rates() -> None:
    means = Means()
    means.add({"a": 1.0, "b": 5.0}, 1)
    means.add({"a": 4.0}, 3)
    assert means.all() == {"a": 13 / 4, "b": 5.0}
    meter = Meter(matmul_rate=1e12)
    meter.add({"clips": 2.0, "tokens": 10.0, "flops": 1e6}, {"loss": 3.0})
    meter.add({"clips": 0.0, "tokens": 0.0, "flops": 0.0}, {})
    with meter.waiting():
        pass
    shown = meter.shown()
    assert shown["loss"] == 3.0 and shown["tokens/s"] == pytest.approx(5 * shown["clips/s"], rel=0.5)
    assert 0 <= shown["data wait"] <= 1
    assert shown["mfu"] > 0 and meter.flush()["loss"] == 3.0 and "loss" not in meter.flush()


def test_checkpoints_and_samples_are_no_training_time() -> None:
    meter = Meter(matmul_rate=0.0)
    began = meter.started
    with meter.paused():
        sum(range(20000))
    assert meter.started > began


@pytest.mark.parametrize(("when", "stops"), [("before", 3), ("within", 4)])
def test_sigterm_saves_and_stops_after_a_step_that_all_know_of(tmp_path: Path, when: str, stops: int) -> None:
    """One that comes within a step, after the processes have spoken, waits for the next. The same run then goes on."""

    def source(start: int, stop: int) -> Iterator[list[Rows]]:
        for number in range(start, stop):
            if number == 2 and when == "before":
                signal.raise_signal(signal.SIGTERM)
            yield [Rows(clips(number))]

    trained = run(tmp_path / "cut", source=source, save_every=100)
    agree = trained.agree

    def spoken(*args: object) -> object:
        found = agree(*args)
        if trained.step == 2 and when == "within":
            signal.raise_signal(signal.SIGTERM)
        return found

    trained.agree = spoken
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"stopped at step {stops} and saved"):
        trained.fit()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert trained.checkpoints.latest().info["step"] == stops
    again, whole = run(tmp_path / "cut"), run(tmp_path / "whole")
    again.fit()
    whole.fit()
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize(("steps", "records"), [(20, 20), (50, 50), (120, 60), (200, 50), (999, 53), (2000, 100)])
def test_a_short_run_has_about_fifty_records(steps: int, records: int) -> None:
    settings = Loop(steps=steps, clip_norm=1.0, max_bad=1, log_every=None, save_every=1, sample_every=1)  # fmt: skip
    assert sum(settings.is_logged(step) for step in range(1, steps + 1)) == records and settings.is_logged(steps)


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    """What a run says of its time goes on where the checkpoint was, whatever pause lies between."""
    first, second = Memory(), Memory()
    run(tmp_path, tracker=first, steps=4, save_every=2).fit()
    again = run(tmp_path, tracker=second, steps=8, save_every=2)
    again.began -= 1000.0  # it was made long before it begins: loading is no training
    again.fit()
    seconds = [*first.column("seconds"), *second.column("seconds")]
    assert len(seconds) == 8 and seconds == sorted(seconds) and 0 < seconds[0] and seconds[-1] < 1000
    assert seconds[4] >= seconds[3]
