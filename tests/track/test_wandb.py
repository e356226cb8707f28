"""wandb offline: what a run folder holds, read from wandb's own file. Nothing here needs an account or the network."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from videodit.errors import InputError
from videodit.track.wandb import Wandb

BLOCK, HEADER = 32768, 7


def written(folder: Path) -> Iterator:
    """wandb's records of a run folder. Its .wandb file is a log in LevelDB's format: blocks of 32 KiB holding chunks
    (checksum u32, length u16, kind u8: 1 whole, 2 first, 3 middle, 4 last) after a header of 7 bytes.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    data, at, record = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def history(folder: Path) -> list[dict]:
    """The history rows of a run folder."""
    rows = []
    for record in written(folder):
        items = record.history.item
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        rows += [row] * bool(row)
    return rows


def services() -> list[str]:
    """Command lines of the wandb services that serve this process."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may end meanwhile
            lines.append(path.read_bytes())
    return [line.decode() for line in lines if b"wandb-core" in line and f"--pid\0{os.getpid()}\0".encode() in line]


@pytest.fixture
def wandb(tmp_path, monkeypatch) -> Iterator:
    for key in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(key, str(tmp_path / "home"))
    import wandb

    wandb.teardown()  # so that the folders above are seen
    yield wandb
    wandb.teardown()
    assert not services()


def start(folder: Path, step: int = 0) -> Wandb:
    tracker = Wandb(folder=folder, project="toy", name="smoke", group="", mode="offline")
    tracker.start({"model": {"depth": 4}, "lr": float("nan")}, step)
    return tracker


def test_an_offline_run_holds_the_scalars_and_the_files(wandb, tmp_path, monkeypatch, capfd) -> None:
    for library in ("moviepy", "imageio"):  # what wandb would encode with
        monkeypatch.setitem(sys.modules, library, None)
    png, mp4 = tmp_path / "a.png", tmp_path / "a.mp4"
    Image.new("RGB", (40, 30), "red").save(png)
    mp4.write_bytes(b"any bytes, for they are not looked into")
    with start(tmp_path) as tracker:
        for step in range(1, 4):
            tracker.scalars(step, {"loss": 1 / step, "clips": step})
        tracker.scalars(4, {"loss": float("nan")})
        tracker.image(4, "scores", png)
        tracker.video(4, "sample", mp4, "a red ball rolls left", png)
        tracker.table(4, "following", ["kind", "right"], [["ball", 0.5], ["cube", "none"]])
    wandb.teardown()  # ends the service, which writes the run's file a moment after `finish`
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    rows = history(run)
    assert [(row["_step"], row["loss"], row["clips"]) for row in rows[:3]] == [(1, 1.0, 1), (2, 0.5, 2), (3, 1 / 3, 3)]
    last = rows[3]
    assert last["_step"] == 4 and last["loss"] != last["loss"]
    assert last["sample/caption"] == "a red ball rolls left" and last["sample/_type"] == "video-file"
    assert (run / "files" / last["sample/path"]).read_bytes() == mp4.read_bytes()
    assert (run / "files" / last["scores/path"]).read_bytes() == png.read_bytes()
    table = json.loads((run / "files" / last["following/path"]).read_text())
    assert table["data"] == [["ball", 0.5], ["cube", "none"]]
    out, err = capfd.readouterr()
    assert out == "" and err == f"wandb: {run}\n"  # quiet but for where it goes


def test_resuming_keeps_the_id_and_starting_over_takes_a_new_one(wandb, tmp_path) -> None:
    ids = []
    for step in (0, 3, 7, 0):
        start(tmp_path, step).finish()
        ids.append((tmp_path / "wandb-id").read_text().strip())
    assert ids[0] == ids[1] == ids[2] != ids[3]
    names = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert sum(ids[0] in name for name in names) == 3 and sum(ids[3] in name for name in names) == 1


def test_an_exception_closes_the_run(wandb, tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), start(tmp_path) as tracker:
        tracker.scalars(1, {"loss": 2.0})
        assert services()
        raise ZeroDivisionError
    tracker.finish()  # once more does no harm
    wandb.teardown()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert history(run)[0]["loss"] == 2.0


@pytest.mark.parametrize("account", [True, False])
def test_auto_is_online_only_with_an_account(wandb, tmp_path, monkeypatch, account) -> None:
    seen = {}

    class Run:
        url, dir = None, str(tmp_path)

        def define_metric(self, *_: object, **__: object) -> None:
            pass

    def login(*, prompt: bool) -> bool:
        assert prompt is False  # a training must not wait for an answer
        return account

    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.setattr(wandb, "init", lambda **given: seen.update(given) or Run())
    Wandb(folder=tmp_path, project="toy", name="smoke", group="").start({}, 0)
    assert seen["mode"] == ("online" if account else "offline")


def test_bad_input_is_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="auto, online, offline"):
        Wandb(folder=tmp_path, project="toy", name="smoke", group="", mode="on")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        Wandb(folder=tmp_path, project="toy", name="smoke", group="").start({}, 0)
