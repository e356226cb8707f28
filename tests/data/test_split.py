"""What trains and what is held out: by source, for good, and never nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.data.test_datasets import open_
from videodit.data import video
from videodit.data.datasets import VideoFolder, folder_part
from videodit.data.split import held_out, place_of
from videodit.errors import InputError

MANY = [f"film {number}" for number in range(2000)]
PARTS = ("train", "heldout")


def listed(folder: Path, lines: list[dict]) -> Path:
    """A folder that lists these clips; none is read here."""
    folder.mkdir(exist_ok=True)
    for line in lines:
        (folder / os.path.normpath(line["file_name"])).touch()
    rows = (json.dumps({"caption": "a clip"} | line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


def files(data: VideoFolder) -> list[str]:
    return [entry.file_name for entry in data.entries]


def sides(folder: Path, share: float = 0.2) -> tuple[list[str], list[str]]:
    """Names of the files that train, and of those held out."""
    train, heldout = (files(open_(folder, part=part, share=share)) for part in PARTS)
    return train, heldout


def test_a_source_stands_where_its_text_says() -> None:
    """Pinned: another hash would hold out what runs have trained on."""
    assert place_of("1.mp4") == pytest.approx(0.02251886, abs=1e-8)
    assert 0 <= place_of("") <= 1 and 0 <= place_of("\ud800") <= 1
    places = sorted(map(place_of, MANY))
    assert max(abs(place - number / len(MANY)) for number, place in enumerate(places)) < 0.04


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_share_is_about_the_one_asked_for(share: float) -> None:
    assert len(held_out(MANY, share)) / len(MANY) == pytest.approx(share, abs=0.03)
    assert held_out(MANY, 0.01) <= held_out(MANY, share)


def test_other_sources_move_none() -> None:
    for count in (100, 500, 2000):
        assert held_out(MANY[:count], 0.2) == held_out(MANY, 0.2) & set(MANY[:count])
    assert held_out(reversed(MANY), 0.2) == held_out(MANY * 2, 0.2) == held_out(MANY, 0.2)


def test_each_side_has_a_source() -> None:
    low, *between, high = sorted(MANY[:9], key=place_of)
    assert held_out([high, low, *between], 1e-9) == {low}
    assert held_out([high, low, *between], 1 - 1e-9) == {low, *between}
    assert held_out([high, low], 1e-9) == held_out([high, low], 1 - 1e-9) == {low}
    assert held_out([low], 0.5) == set()


def test_a_later_source_takes_no_clip_from_training() -> None:
    """With a small share: the one that stood in may come to train, one that trained is not held out."""
    for count in range(2, 60):
        before, after = (held_out(MANY[:number], 0.05) for number in (count, count + 1))
        assert after & set(MANY[:count]) <= before


def test_both_parts_are_the_whole_in_its_order(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(40)]
    train, heldout = sides(listed(tmp_path, [{"file_name": name} for name in names]))
    assert train and heldout and sorted([*train, *heldout]) == sorted(names)
    assert [name for name in names if name in heldout] == heldout and [n for n in names if n in train] == train
    assert files(open_(tmp_path)) == names


def test_a_file_stays_on_its_side(tmp_path: Path) -> None:
    lines = [{"file_name": f"{number}.mp4"} for number in range(60)]
    train, heldout = sides(listed(tmp_path / "first", lines[:30]))
    more_train, more_heldout = sides(listed(tmp_path / "more", lines[::-1]))
    assert set(train) < set(more_train) and set(heldout) < set(more_heldout)


def test_clips_of_one_source_stay_together(tmp_path: Path) -> None:
    """Whatever they are called; a clip without a source is one with any that names its file."""
    lines = [{"file_name": f"{i}-{j}.mp4", "source": f"film {i}"} for j in range(3) for i in range(20)]
    lines += [{"file_name": f"{i}.mp4"} for i in range(20)]
    lines += [{"file_name": f"part of {i}.mp4", "source": f"{i}.mp4", "views": 3} for i in range(20)]
    lines += [{"file_name": f"sub/../{i}.mp4"} for i in range(20)]
    train, heldout = sides(listed(tmp_path, lines))
    assert len(train) + len(heldout) == 120
    for group in (
        *([f"{i}-{j}.mp4" for j in range(3)] for i in range(20)),
        *([f"{i}.mp4", f"part of {i}.mp4", f"sub/../{i}.mp4"] for i in range(20)),
    ):
        assert set(group) <= set(train) or set(group) <= set(heldout)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_few_clips_have_a_held_out_one(tmp_path: Path, count: int) -> None:
    train, heldout = sides(listed(tmp_path, [{"file_name": f"{number}.mp4"} for number in range(count)]), 1e-6)
    assert len(heldout) == 1 and len(train) == count - 1


def test_one_source_is_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, heldout = sides(listed(tmp_path, [{"file_name": f"{i}.mp4", "source": "the film"} for i in range(2)]))
    assert train == heldout == ["0.mp4", "1.mp4"]
    assert capsys.readouterr().err == f"{tmp_path}: one source, the film: held-out clips are those trained on\n"


def test_parts_or_two_folders(tmp_path: Path) -> None:
    how = {"frames": 9, "height": 32, "width": 32, "area": None, "fps": 10.0, "fit": "crop"}
    how |= {"stride": (4, 8, 8), "patch": (1, 2, 2)}
    root, other = (listed(tmp_path / name, [{"file_name": f"{name} {i}.mp4"} for i in range(30)]) for name in "ab")
    for part, folder in zip(PARTS, (root, other), strict=True):
        parts = folder_part(part=part, root=root, heldout_root=None, share=0.2, **how)
        assert files(parts) == files(open_(root, part=part, share=0.2))
        whole = folder_part(part=part, root=root, heldout_root=other, share=0.2, **how)
        assert files(whole) == files(open_(folder)) and len(whole) == 30


def test_parts_do_not_change_what_a_clip_is(tmp_path: Path) -> None:
    """The cache of latents is keyed by fingerprints: neither part, share nor source is in them."""
    lines = [{"file_name": f"{number}.mp4"} for number in range(9)]
    whole = open_(listed(tmp_path, lines))
    known = dict(zip(files(whole), map(whole.fingerprint, range(9)), strict=True))
    listed(tmp_path, [line | {"source": line["file_name"]} for line in lines])
    for part in PARTS:
        data = open_(tmp_path, part=part, share=0.3)
        assert [data.fingerprint(index) for index in range(len(data))] == [known[name] for name in files(data)]
    path = tmp_path / "0.mp4"
    path.write_bytes(b"film")
    expected = (
        f"v{video.VERSION}-d0607f7ad2628b2af9158dfba06ce87166e66b15bf68f8f358f9aa27ccb7c321"
        "-a clip-9x32x32/None@10.0-crop-(4, 8, 8)-(1, 2, 2)"
    )
    assert whole.fingerprint(0) == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"part": "test", "share": 0.1}, "part is one of"),
        *(({"part": "train", "share": share}, f"share={share}") for share in (None, 0, 1, -0.1, 1.5, "a", True)),
    ],
)
def test_a_part_that_cannot_be(tmp_path: Path, changes: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_(listed(tmp_path, [{"file_name": "0.mp4"}, {"file_name": "1.mp4"}]), **changes)
