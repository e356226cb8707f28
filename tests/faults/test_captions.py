"""Captions are the data: each is kept whole, or reported with file and line, by `ingest` and `train` alike."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ingest.commands import here, rows
from tests.ingest.nasty import good
from tests.train import tiny
from videodit.cli.main import main
from videodit.data.datasets import read_entries
from videodit.data.files import Root
from videodit.errors import InputError
from videodit.ingest.run import BARE, Run

NAMES = ("a.mp4", "b.mp4", "c.mp4")


def tarred(path: Path, members: dict[str, str] | list[tuple[str, str]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            about = tarfile.TarInfo(name)
            about.size = len(content.encode())
            tar.addfile(about, io.BytesIO(content.encode()))
    return path


def filled(folder: Path, files: dict[str, str | bytes], names: tuple[str, ...] = NAMES) -> Path:
    """A folder of files that may be videos, with these beside them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def listed(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What ingest takes: captions by file, and faults."""
    listing = Root(str(folder)).list(without=folder / "none")
    return {file.path.partition("!")[2] or file.path: file.caption for file in listing.files}, dict(listing.faults)


def trained(folder: Path) -> dict[str, str] | str:
    """What train takes: captions by file, or what it says."""
    try:
        return {entry.file_name: entry.caption for entry in read_entries(folder)}
    except InputError as error:
        return str(error)


# ---- tables ----

HEAD = "file_name,caption\n"
WHOLE = {
    "plain": f"{HEAD}a.mp4,one\nb.mp4,two\nc.mp4,three\n",
    "blanks after commas": "file_name, caption\na.mp4, one\nb.mp4, two\nc.mp4, three\n",
    "blanks in the rows alone": f"{HEAD}a.mp4, one\nb.mp4, two\nc.mp4, three\n",
    "other spelling": "File Name,Caption \na.mp4,one\nb.mp4,two\nc.mp4,three\n",
    "other names": "path;text\na.mp4;one\nb.mp4;two\nc.mp4;three\n",
    "tabs": "video\tprompt\na.mp4\tone\nb.mp4\ttwo\nc.mp4\tthree\n",
    "another order": "caption,n,filename\none,1,a.mp4\ntwo,2,b.mp4\nthree,3,c.mp4\n",
    "ends of other systems": f"{HEAD}a.mp4,one\nb.mp4,two\nc.mp4,three\n".replace("\n", "\r\n"),
    "ends of old systems": f"{HEAD}a.mp4,one\nb.mp4,two\nc.mp4,three\n".replace("\n", "\r"),
    "an empty line": f"\n{HEAD}\na.mp4,one\n\nb.mp4,two\nc.mp4,three",
    "a line twice": f"{HEAD}a.mp4,one\nb.mp4,two\nc.mp4,three\na.mp4,one\n",
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.CSV"])
def test_tables_of_any_spelling_are_read(tmp_path: Path, kind: str, encoding: str, name: str) -> None:
    filled(tmp_path, {name: WHOLE[kind].encode(encoding)})
    wanted = dict(zip(NAMES, ("one", "two", "three"), strict=True))
    assert listed(tmp_path) == (wanted, {}) and trained(tmp_path) == wanted


CUT = {  # what is wrong -> (table, what is kept of it, words of the fault)
    "a comma without quotes": (f"{HEAD}a.mp4,a red ball, rolling\nb.mp4,two\nc.mp4,three\n", "bc", "line 2: 3 cells"),
    "such a comma among three columns": (
        "file_name,caption,source\na.mp4,a red ball, rolling\nb.mp4,two,film\nc.mp4,three,\n", "bc", "line 2: blanks"),
    "a quote inside of quotes": (f'{HEAD}c.mp4,three\na.mp4,"5 inch" ball\nb.mp4,two\n', "c", "line 3: not CSV"),
    "a quote that is open to the end": (f'{HEAD}a.mp4,one\nb.mp4,"a 9 inch\nc.mp4,three\n', "a", "line 3: not CSV"),
    "a quote that is closed later": (f'{HEAD}a.mp4,one\nb.mp4,"two\nc.mp4,three"\n', "a", "line 3: a quote that"),
    "one that closes far below": (f'{HEAD}a.mp4,one\nb.mp4,"two\nx,y\nd.MOV,"three"\n', "a", "line 3: "),
    "a break of lines without quotes": (f"{HEAD}a.mp4,one\nb.mp4,two\nballs\nc.mp4,three\n", "ac", "line 4: 1 cells"),
    "no caption column": ("file_name,description\na.mp4,one\nb.mp4,two\n", "", "lacks caption; it has 'file_name', 'd"),
    "no file column": ("name,caption\na.mp4,one\n", "", "line 1: should name the columns"),
    "no header": ("a.mp4,one\nb.mp4,two\n", "", "line 1: should name the columns"),
    "a header in quotes": ('"file_name,caption"\na.mp4,one\n', "", "line 1: should name the columns"),
    "a column twice": ("file_name,caption,Caption\na.mp4,x,one\nb.mp4,two,two\n", "b", "line 2: caption and Caption"),
    "no UTF-8": (f"{HEAD}a.mp4,caf\xe9\nb.mp4,two\n".encode("latin-1"), "b", "line 2: is neither UTF-8 nor UTF-16"),
    "UTF-16 without a mark": (f"{HEAD}a.mp4,one\n".encode("utf-16-le"), "", "line 1: holds zero bytes"),
    "half of UTF-16": (f"{HEAD}a.mp4,one\n".encode("utf-16")[:-1], "", "not UTF-16 text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CUT)
def test_what_a_table_cuts_is_told_with_its_line(tmp_path: Path, kind: str) -> None:
    table, kept, words = CUT[kind]
    filled(tmp_path, {"metadata.csv": table})
    found, faults = listed(tmp_path)
    whole = {"a.mp4": "one", "b.mp4": "two", "c.mp4": "three"}
    assert found == {name: whole[name] if name[0] in kept else "" for name in NAMES}
    listing = Root(str(tmp_path)).list(without=tmp_path / "none")
    assert words in " ".join(why for _, why in listing.faults) and faults.keys() == {"metadata.csv"}
    said = trained(tmp_path)
    assert isinstance(said, str) and said.startswith(f"{tmp_path / 'metadata.csv'}: ") and "\n" not in said


def test_a_row_before_a_cut_one_is_told_too(tmp_path: Path) -> None:
    filled(tmp_path, {"metadata.csv": CUT["a break of lines without quotes"][0]})
    faults = [why for _, why in Root(str(tmp_path)).list(without=tmp_path / "none").faults]
    assert any("line 3: may go on in line 4" in why for why in faults) and len(faults) == 2


@pytest.mark.parametrize("caption", ["one, two", 'a 5" ball', "two\nlines", "old\r\nlines", "a\u2028b\u2029c\x85d",
                                     "a blank line\n\n.", "é 中文 🎬", "a\ttab; and more", "b.mov,no row"])  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "json", "tar"])
def test_any_caption_is_kept_whole(tmp_path: Path, caption: str, kind: str) -> None:
    quoted = caption.replace('"', '""')
    row = json.dumps({"file_name": "a.mp4", "caption": caption}, ensure_ascii=False)
    files = {"csv": ("metadata.csv", f'{HEAD}"a.mp4","{quoted}"\n'), "jsonl": ("metadata.jsonl", row),
             "txt": ("a.txt", caption), "json": ("a.json", row)}  # fmt: skip
    if kind == "tar":
        tarred(tmp_path / "t.tar", {"a.mp4": "a", "a.txt": caption})
    else:
        filled(tmp_path, dict([files[kind]]), ("a.mp4",))
        assert trained(tmp_path) == {"a.mp4": caption}
    assert listed(tmp_path) == ({"a.mp4": caption}, {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not valid JSON"),
        ('{"file_name": "b.mp4", "caption": ["x"]}', "line 2: caption should be a string"),
        ('{"file_name": "b.mp4", "caption": "x", "caption": "y"}', "line 2: caption and caption tell two"),
        ('{"file_name": "b.mp4", "captoin": "x"}', "line 2: lacks caption; it has 'file_name', 'captoin'"),
        ('{"path": "b.mp4", "video": "c.mp4", "caption": "x"}', "line 2: path and video tell two different things"),
        ('{"caption": "x"}', "line 2: lacks file_name"),
        ('{"file_name": "b.mp4", "caption": "caf\xe9"}', "line 2: is neither UTF-8"),
    ],
)
def test_a_line_of_json_is_told_and_the_others_count(tmp_path: Path, line: str, words: str) -> None:
    row = '{{"File Name": "{}.mp4", "Caption": "{}"}}'
    table = "\n".join([row.format("a", "one"), line, row.format("c", "three")])
    filled(tmp_path, {"metadata.jsonl": table.encode("latin-1")})
    found, faults = listed(tmp_path)
    assert found == {"a.mp4": "one", "b.mp4": "", "c.mp4": "three"} and words in faults["metadata.jsonl"]
    assert words in trained(tmp_path)


def test_a_table_of_nothing_but_faults_is_given_up(tmp_path: Path) -> None:
    filled(tmp_path, {"metadata.jsonl": "{\n" * 5000})
    faults = Root(str(tmp_path)).list(without=tmp_path / "none").faults
    assert len(faults) == 101 and any("what follows is not read" in why for _, why in faults)


# ---- several places ----

TWO = {  # files beside a.mp4 -> its caption; None: they differ, and the clip is left out
    "nothing in the JSON": ({"a.txt": "one", "a.json": '{"url": "u", "status": "success"}'}, "one"),
    "nothing in the text": ({"a.txt": " \n", "a.json": '{"caption": "one"}'}, "one"),
    "null in the JSON": ({"a.txt": "one", "a.json": '{"caption": null, "text": ""}'}, "one"),
    "an empty column before another": ({"a.json": '{"caption": " ", "text": "one"}'}, "one"),
    "nothing in the table": ({"metadata.csv": f"{HEAD}a.mp4,\n", "a.txt": "one"}, "one"),
    "null in the table": ({"metadata.jsonl": '{"file_name": "a.mp4", "caption": null}', "a.txt": "one"}, "one"),
    "the same but for blanks": ({"a.txt": "one ball\n", "a.json": '{"caption": "one  ball"}'}, "one  ball"),
    "the same in two tables": ({"metadata.csv": f"{HEAD}a.mp4,one\n",
                                "metadata.jsonl": '{"file_name": "a.mp4", "caption": "one"}'}, "one"),
    "endings of any case": ({"a.TXT": "one"}, "one"),
    "the whole name": ({"a.mp4.txt": "one"}, "one"),
    "text and JSON differ": ({"a.txt": "one", "a.json": '{"caption": "two"}'}, None),
    "texts differ": ({"a.txt": "one", "a.mp4.txt": "two"}, None),
    "texts of two cases": ({"a.txt": "one", "a.TXT": "two"}, None),
    "table and text differ": ({"metadata.csv": f"{HEAD}a.mp4,one\n", "a.txt": "two"}, None),
    "tables differ": ({"metadata.csv": f"{HEAD}a.mp4,one\n",
                       "metadata.jsonl": '{"file_name": "a.mp4", "caption": "two"}'}, None),
    "lines differ": ({"metadata.csv": f"{HEAD}a.mp4,one\n./a.mp4,two\n"}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", TWO)
def test_places_agree_or_the_clip_is_the_fault(tmp_path: Path, kind: str) -> None:
    files, caption = TWO[kind]
    found, faults = listed(filled(tmp_path, files, ("a.mp4",)))
    said = trained(tmp_path)
    if caption is None:
        assert found == {} and faults.keys() == {"a.mp4"} and faults["a.mp4"].startswith("what is told of it differs: ")
        assert all(name in faults["a.mp4"] for name in files) and faults["a.mp4"] in said
    else:
        assert found == {"a.mp4": caption} and not faults and list(said.values()) == [caption]


def test_a_text_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    filled(tmp_path, {"a.txt": b"caf\xe9", "a.json": '{"caption": "one"}', "b.txt": b"x\n\0", "c.json": "{"})
    found, faults = listed(tmp_path)
    assert found == {"a.mp4": "one", "b.mp4": "", "c.mp4": ""} and faults.keys() == {"a.txt", "b.txt", "c.json"}
    assert "line 1: is neither" in faults["a.txt"] and "line 2: holds zero bytes" in faults["b.txt"]
    assert "not valid JSON" in faults["c.json"]


def test_rows_that_name_no_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, {"metadata.csv": f"{HEAD}a.mp4,one\nA.MP4,two\nsub\\b.mp4,three\n"})
    _, faults = listed(tmp_path)
    assert faults == {"A.MP4": "named in a table, not there: metadata.csv, line 3",
                      "sub\\b.mp4": "named in a table, not there: metadata.csv, line 4"}  # fmt: skip
    assert len(read_entries(tmp_path, tell=True)) == 3
    assert "2 lines name no file, such as metadata.csv, line 3" in capsys.readouterr().err


# ---- tars ----

TARS = {  # members -> captions of the videos, and of which names there are faults
    "dots in names": ({"clip 2.0 a.mp4": "1", "clip 2.0 a.txt": "red", "clip 2.0 b.mp4": "2", "clip 2.0 b.txt": "blue"},
                      {"clip 2.0 a.mp4": "red", "clip 2.0 b.mp4": "blue"}, ()),
    "dots, and one without": ({"2.0 a.mp4": "1", "2.0 a.txt": "red", "2.0 b.mp4": "2"},
                              {"2.0 a.mp4": "red", "2.0 b.mp4": ""}, ()),
    "dots, and a text without its video": ({"2.0 a.txt": "red", "2.0 b.mp4": "2"}, {"2.0 b.mp4": ""}, ("2.0 a.txt",)),
    "a .json without a caption": ({"7.mp4": "1", "7.txt": "frog", "7.json": '{"url": "u"}'}, {"7.mp4": "frog"}, ()),
    "a .json before": ({"7.json": '{"caption": ""}', "7.txt": "frog", "7.mp4": "1"}, {"7.mp4": "frog"}, ()),
    "two that differ": ({"7.mp4": "1", "7.txt": "frog", "7.json": '{"caption": "toad"}'}, {}, ("7.mp4",)),
    "both rules": ({"a.b.mp4": "1", "a.b.txt": "one", "a.txt": "two"}, {}, ("a.b.mp4",)),
    "both rules, each its video": ({"a.b.mp4": "1", "a.b.txt": "one", "a.mp4": "2", "a.txt": "two"},
                                   {"a.b.mp4": "one", "a.mp4": "two"}, ()),
    "one text of two views": ({"a.l.mp4": "1", "a.r.mp4": "2", "a.txt": "one"},
                              {"a.l.mp4": "one", "a.r.mp4": "one"}, ()),
    "a language": ({"a.mp4": "1", "a.en.txt": "one", "a.b.mp4": "2", "a.b.en.txt": "two"},
                   {"a.mp4": "one", "a.b.mp4": "two"}, ()),
    "two languages": ({"a.mp4": "1", "a.en.txt": "one", "a.de.txt": "eins"}, {}, ("a.mp4",)),
    "the whole name": ({"a.mp4": "1", "a.mp4.txt": "one", "a.mov": "2"}, {"a.mp4": "one", "a.mov": ""}, ()),
    "endings of any case": ({"a.MP4": "1", "a.TXT": "one", "b.MP4": "2", "b.JSON": '{"Caption": "two"}'},
                            {"a.MP4": "one", "b.MP4": "two"}, ()),
    "folders": ({"x.1/a.mp4": "1", "x.1/a.txt": "one", "x.2/a.mp4": "2", "./y/a.mp4": "3", "y/a.txt": "two"},
                {"x.1/a.mp4": "one", "x.2/a.mp4": "", "./y/a.mp4": "two"}, ()),
    "hidden ones": ({"a.mp4": "1", "a.txt": "one", "._a.mp4": "x", "._a.txt": "y", "./.b/c.mp4": "z"},
                    {"a.mp4": "one"}, ()),
    "a name twice": ([("a.mp4", "1"), ("a.txt", "one"), ("a.txt", "two")], {}, ("a.mp4",)),
    "no text": ({"a.mp4": "1", "b.txt": "nobody's"}, {"a.mp4": ""}, ("b.txt",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", TARS)
def test_a_tar_gives_each_video_its_own(tmp_path: Path, kind: str) -> None:
    members, captions, wrong = TARS[kind]
    tarred(tmp_path / "0.tar", members)
    found, faults = listed(tmp_path)
    assert found == captions and faults.keys() == {f"0.tar!{name}" for name in wrong}


def test_an_ending_of_any_case_is_a_tar(tmp_path: Path) -> None:
    tarred(tmp_path / "0.TAR", {"a.mp4": "content", "a.txt": "one"})
    assert listed(tmp_path) == ({"a.mp4": "one"}, {})
    with Root(str(tmp_path)).open("0.TAR!a.mp4") as path:
        assert path.read_text() == "content"


# ---- the commands ----


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that can be read."""
    folder = tmp_path_factory.mktemp("clips")
    for number, name in enumerate("abcdef"):
        good(folder / f"{name}.mp4", number)
    return folder


@pytest.fixture
def videos(tmp_path: Path, clips: Path) -> Path:
    shutil.copytree(clips, tmp_path / "videos")
    return tmp_path / "videos"


def test_ingest_counts_them_in_its_last_lines(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, absent, lost and changed; the page says so, too."""
    shutil.copy(videos / "d.mp4", videos / "d2.mp4")
    table = f'{HEAD}a.mp4,"one, two"\nb.mp4,half, lost\ngone.mp4,three\n'
    filled(videos, {"metadata.csv": table, "c.json": '{"caption": "a cat \\ud83d"}', "d.txt": "four", "d2.txt": "five",
                    "e.txt": "x", "e.json": '{"text": "y"}', "stray.txt": "nobody's"}, ())  # fmt: skip
    assert here(videos, tmp_path / "set", "vae=", "measure.edge=32") == 0
    told = capsys.readouterr().out.splitlines()
    (at,) = [place for place, line in enumerate(told) if line.startswith("captions: ")]
    assert told[at] == "captions: 4 of 6 files came with one; 2 absent, 5 lost, 1 changed"
    assert any(line.startswith("  metadata.csv: a caption was lost: line 3: 3 cells") for line in told[at:])
    assert any("e.mp4: what is told of it differs: one caption in e.json, another in e.txt" in line for line in told)
    assert "another file, which has another caption" in "".join(told)
    found = {row["source"]: row["caption"] for row in rows(tmp_path / "set")}
    assert found["a.mp4"] == "one, two" and found["c.mp4"] == "a cat ?" and found["b.mp4"] == ""
    assert "e.mp4" not in found
    assert told[at][10:] in (tmp_path / "set" / "report.html").read_text()


def test_a_caption_that_goes_with_a_near_duplicate_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(SimpleNamespace(duplicates={}))
    monkeypatch.setattr(run, "alike", lambda shots: [[0, 1], [2, 3]])
    like = {"height": 2, "compression": 1.0, "seconds": 1.0, "origin": "", "sha256": "x", "first": 0}
    told = [("large", 9, ""), ("small", 1, "one"), ("large too", 9, "two"), ("small too", 1, "three")]
    shots = [like | {"shot": name, "source": name, "width": width, "caption": text} for name, width, text in told]
    assert [shot["source"] for shot in run.unique(shots)] == ["large", "large too"]
    told, where = run.found.captions()
    assert "1 lost" in told and where == [f"small: {BARE}: large, frame 0"]


def command(videos: Path, tmp_path: Path, *more: str) -> list[str]:
    """`videodit train` on a folder, as far as its plan."""
    small = [part for part in tiny.COMMAND if not part.startswith("data")]
    where = [f"run_dir={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", f"vae_from={tiny.saved_vae(tmp_path)}"]
    data = ["data=videofolder", f"data.root={videos}", "data.frames=5", "data.area=1024", "data.heldout_share=0.3"]
    return ["train", *data, *small, *where, "workers=0", "plan=true", *more]


def test_train_reads_what_ingest_does_and_says_what_is_absent(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "Path;Text \na.mp4;one; two\nb.mp4;\nc.mp4;three\n"
    filled(videos, {"metadata.csv": table.encode("utf-16"), "b.TXT": "from beside", "d.txt": "not listed"}, ())
    assert main(command(videos, tmp_path)) == 2
    fault = "metadata.csv: line 2: 3 cells where the header has 2"
    assert fault in capsys.readouterr().err
    assert main(["doctor", *command(videos, tmp_path)[1:-1]]) == 2
    assert fault in capsys.readouterr().out
    (videos / "metadata.csv").write_bytes(table.replace("one; two", '"one; two"').replace("three", "").encode("utf-16"))
    assert main(command(videos, tmp_path)) == 0
    assert f"{videos}: 1 clips have no caption, such as c.mp4" in capsys.readouterr().err
    assert trained(videos) == {"a.mp4": "one; two", "b.mp4": "from beside", "c.mp4": ""}
    (videos / "metadata.csv").unlink()
    assert trained(videos) == {"b.mp4": "from beside", "d.mp4": "not listed"}
