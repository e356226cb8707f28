"""TensorBoard event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from videodit.errors import InputError
from videodit.track.tensorboard import TensorBoard


def run(folder: Path, losses: dict[int, float], start: int = 0) -> None:
    with TensorBoard(folder=folder) as tracker:
        tracker.start({"lr": 1e-3}, start)
        for step, loss in losses.items():
            tracker.scalars(step, {"loss": loss})


def losses(folder: Path) -> dict[int, float]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars("loss")}


def test_scalars_survive_resuming_and_starting_over(tmp_path) -> None:
    run(tmp_path, {1: 1.0, 2: 0.5, 3: 0.25, 4: 9.0})
    assert losses(tmp_path) == {1: 1.0, 2: 0.5, 3: 0.25, 4: 9.0}
    run(tmp_path, {4: 0.125, 5: 0.0625}, start=3)
    assert losses(tmp_path) == {1: 1.0, 2: 0.5, 3: 0.25, 4: 0.125, 5: 0.0625}
    run(tmp_path, {1: 2.0})
    assert losses(tmp_path) == {1: 2.0}


def test_media_are_handed_over_as_they_are(tmp_path) -> None:
    png, folder = tmp_path / "sheet.png", tmp_path / "events"
    Image.new("RGB", (40, 30), "red").save(png)
    with TensorBoard(folder=folder) as tracker:
        tracker.start({"model": {"depth": 4}}, 0)
        tracker.image(2, "scores", png)
        tracker.video(2, "sample", "samples/2.mp4", "a red ball rolls left", png)
        tracker.video(3, "bare", "samples/3.mp4", "a blue cube spins")
        tracker.table(3, "following", ["kind", "right"], [["ball", 0.5], ["cube|cone\n", 0.25]])
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["images"]) == {"scores", "sample/sheet"}
    image = events.Images("sample/sheet")[0]
    assert (image.step, image.width, image.height, image.encoded_image_string) == (2, 40, 30, png.read_bytes())

    def text(name: str) -> str:
        return events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert '"depth": 4' in text("config")
    assert "a red ball rolls left" in text("sample") and "samples/2.mp4" in text("sample")
    assert text("following").splitlines()[2:] == ["| ball | 0.5 |", "| cube\\|cone  | 0.25 |"]
    with pytest.raises(InputError, match="not a PNG"), TensorBoard(folder=folder) as tracker:
        tracker.start({}, 0)
        tracker.image(1, "scores", __file__)


def test_a_missing_package_is_named(tmp_path, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r'pip install "videodit\[tensorboard\]"'):
        TensorBoard(folder=tmp_path).start({}, 0)
