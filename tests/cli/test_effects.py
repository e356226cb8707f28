"""What is given has an effect, or is refused: every key of every command, in every mode."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli import effects
from videodit.cli.effects import EFFECTS, IDLE, RESULT, WORK
from videodit.cli.keys import everything
from videodit.cli.main import COMMANDS, main
from videodit.config import conf_dir
from videodit.errors import InputError
from videodit.generate.record import read_record
from videodit.generate.request import OWN, Request
from videodit.settings import LIMITS
from videodit.train.folder import is_safe

SMALL = {"steps": 2, "frames": 5, "size": "32x32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("effects") / "model")


def keys(command: str) -> set[str]:
    """The keys and groups of a command, by their first names, those of what it takes on too."""
    _, groups, own = everything(command, conf_dir())
    return {key.name.partition(".")[0] for key in (*own, *groups)}


# ------------------------------------------------------------------------------------------------------ declarations


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_says_what_it_does(command: str) -> None:
    assert set(EFFECTS[command]) == keys(command)
    assert set(EFFECTS[command].values()) <= {RESULT, WORK}


@pytest.mark.parametrize("key", sorted(EFFECTS["train"].keys() - {"experiment"}))
def test_a_training_knows_another_one_by_the_same_keys(key: str) -> None:
    """What `resuming with another config` calls safe is how and where work is done."""
    parts = {"loop": "loop.steps", "data": "data.train", "packs": "packs.tokens"}
    assert is_safe(parts.get(key, key)) == (EFFECTS["train"][key] == WORK) or key in NOT_OF_A_CONFIG


NOT_OF_A_CONFIG = ("after", "fresh", "memory", "plan", "request", "tracker")  # see OF_THIS_START and SAFE


@pytest.mark.parametrize("command", IDLE)
def test_what_may_be_idle_is_a_key(command: str) -> None:
    for idle in IDLE[command]:
        assert {key.partition(".")[0] for key in idle.keys} <= set(EFFECTS[command])


# ------------------------------------------------------------------------------------- generate: the record says it all

# key: another value, and where a record says it
SAID: dict[str, tuple[str, str]] = {
    "prompt": (CAPTIONS[1], "prompt"),
    "negative": ("blurry", "negative"),
    "width": ("40", "width"),
    "height": ("40", "height"),
    "size": ("40x48", "height"),
    "aspect": ("2:1", "width"),
    "preset": ("square", "width"),
    "fit": ("pad", "fit"),
    "frames": ("13", "frames"),
    "seconds": ("1.2", "frames"),
    "fps": ("4", "fps"),
    "seed": ("3", "seed"),
    "steps": ("4", "steps"),
    "guidance": ("4", "guidance"),
    "sampler": ("heun", "sampler"),
    "step_cache": ("0.2", "step_cache"),
    "shift": ("2.5", "shift"),
    "passes": ("2", "made_with"),
    "chunk": ("1", "made_with"),
    "offload": ("model", "made_with"),
    "dtype": ("bfloat16", "made_with"),
    "vae_dtype": ("bfloat16", "made_with"),
    "kernel": ("reference", "made_with"),
}


def another(key: str) -> str:
    """Some value of a key of a request that its schema allows."""
    [field] = [one for one in fields(Request) if one.name == key]
    kind, limits = get_type_hints(Request)[key], field.metadata[LIMITS]
    if get_origin(kind) is Literal:
        return next(one for one in get_args(kind) if one != field.default)
    if kind is str:
        return "something"
    least, most = (
        next((limits[name] for name in names if name in limits), 8) for names in (("ge", "gt"), ("le", "lt"))
    )
    return str(7 if kind is int else 0.25 * least + 0.75 * most)


SAID |= {key: (another(key), key) for key in OWN if key not in SAID}
ELSEWHERE = {  # keys of the result that other tests hold to their records
    **{"model": "tests/cli/test_recipe.py", "base": "tests/faults/test_named_by_files.py"},
    **{"lora": "tests/checkpoint/test_adapters.py", "quantize": "tests/accel/test_int8.py"},
    **{"count": "tests/cli/test_places.py"},
    **{"compile": "made_with", "recipe": "below", "prompts": "below", "batch": "tests/cli/test_recipe.py"},
}


def generated(model: Path, out: Path, *words: str) -> dict[str, Any]:
    """The record of a video that is made so."""
    assert main(["generate", f"model={model}", f"out={out}", "device=cpu", *words]) == 0
    return read_record(out)


def without(*left: str) -> list[str]:
    """Small values for what is not asked for in another way."""
    shapes = {"size", "width", "height", "aspect", "preset"}
    gone = {*left, *(shapes if shapes & set(left) else ()), *(("frames",) if "seconds" in left else ())}
    return [f"{key}={value}" for key, value in SMALL.items() if key not in gone]


def test_every_key_of_the_result_is_tried() -> None:
    wanted = {key for key, effect in EFFECTS["generate"].items() if effect == RESULT}
    assert wanted == SAID.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("key", SAID)
def test_a_record_says_what_changes_the_result(model: Path, key: str, tmp_path: Path) -> None:
    value, place = SAID[key]
    words, small = [f"{key}={value}"], without(key)
    plain = generated(model, tmp_path / "a.mp4", *([] if key == "prompt" else [CAPTIONS[0]]), *small, *(
        [CAPTIONS[0]] if key == "prompt" else []))  # fmt: skip
    other = generated(model, tmp_path / "b.mp4", *([value] if key == "prompt" else [CAPTIONS[0], *words]), *small)
    assert plain[place] != other[place]


# --------------------------------------------------------------------------------------------- keys beside other things


def lines(path: Path, *requests: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def test_keys_beside_a_file_are_for_lines_that_lack_them(model: Path, tmp_path: Path) -> None:
    plain, own = {"prompt": CAPTIONS[0]}, {"prompt": "a", "steps": 2, "seed": 40, "seconds": 1}
    asked = lines(tmp_path / "many.jsonl", plain, own, {"prompt": "b", "width": 40, "fps": 4})
    words = [f"prompts={asked}", f"model={model}", "out=" + str(tmp_path / "out")]
    assert main(["generate", *words, "size=48x32", "frames=5", "steps=3", "seed=7", "guidance=3"]) == 0
    one, two, three = (read_record(path) for path in sorted((tmp_path / "out").glob("*.mp4")))
    assert (one["width"], one["height"], one["frames"], one["steps"], one["seed"], one["guidance"]) == (
        48,
        32,
        5,
        3,
        7,
        3,
    )
    assert (two["steps"], two["seed"], two["frames"]) == (2, 40, 8), "its seconds, not the frames beside the file"
    assert (three["width"], three["height"]) == (40, 32), "its width, and the model's own height"
    assert (three["steps"], three["seed"], three["fps"]) == (3, 9, 4), "seeds count up by lines"


def test_seeds_count_up_as_those_of_a_list_in_python(model: Path, tmp_path: Path) -> None:
    import videodit

    asked = lines(tmp_path / "many.jsonl", *({"prompt": one, "frames": 1, "steps": 2} for one in CAPTIONS[:3]))
    assert main(["generate", f"prompts={asked}", f"model={model}", f"out={tmp_path}", "seed=5"]) == 0
    here = videodit.load(str(model), device="cpu")(CAPTIONS[:3], frames=1, steps=2, seed=5)
    assert [read_record(path)["seed"] for path in sorted(tmp_path.glob("*.mp4"))] == [
        one.record["seed"] for one in here
    ]


def test_a_second_run_into_a_folder_replaces_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = lines(tmp_path / "many.jsonl", *({"prompt": one, "frames": 1, "steps": 2} for one in CAPTIONS[:2]))
    words = ["generate", f"prompts={asked}", f"model={model}", f"out={tmp_path / 'out'}"]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "0006.latents.safetensors").write_bytes(b"another run's, which waits")
    assert main([*words, "seed=9"]) == 0
    assert "these are 0007.mp4 and on" in capsys.readouterr().err
    now = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert before.items() <= now.items() and {"0007.mp4", "0008.mp4"} <= now.keys() - before.keys()


def test_the_same_command_makes_the_same_folder(model: Path, tmp_path: Path) -> None:
    """Such as after a kill: requests have the names that they had, until one of them is another."""
    asked = lines(tmp_path / "many.jsonl", *({"prompt": one, "frames": 1, "steps": 2} for one in CAPTIONS[:3]))
    words = ["generate", f"prompts={asked}", f"model={model}", f"out={tmp_path / 'out'}"]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for lost in ("0001.mp4", "0001.mp4.json"):
        (tmp_path / "out" / lost).unlink()
    assert main(words) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert main([*words, "seed=1"]) == main([*words, "seed=1"]) == 0
    assert main([*words, "dtype=bfloat16"]) == 0  # another way of making them
    names = sorted(path.name for path in (tmp_path / "out").glob("*.mp4"))
    assert names == [f"{n:04d}.mp4" for n in range(3 * len(CAPTIONS))]
    assert before.items() <= {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}.items()


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["seed=9"], {"seed": 9}),
        (["size=48x64", "steps=3"], {"width": 48, "height": 64, "steps": 3}),
        (["seconds=1"], {"frames": 8}),
        (["width=40"], {"width": 40}),
        (["a blue cube"], {"prompt": "a blue cube"}),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_keys_beside_a_recipe_change_it(
    model: Path, words: list[str], changed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = generated(model, tmp_path / "a.mp4", CAPTIONS[0], *without(), "seed=1")
    capsys.readouterr()
    now = generated(model, tmp_path / "b.mp4", f"recipe={tmp_path / 'a.mp4'}", *words)
    assert "recipe: followed but for" in capsys.readouterr().err
    told = ("generated", "made_with")
    assert {key: value for key, value in now.items() if key not in told and before[key] != value} == changed


# ------------------------------------------------------------------------------------------------------------- refused

REFUSED = [
    ("generate", [CAPTIONS[0], "batch=4"], "batch= has no effect where one video is made"),
    ("generate", ["recipe=x.mp4", "batch=4"], "batch= has no effect where one video is made"),
    ("generate", ["prompts=x.jsonl", "count=2"], "count= has no effect with prompts="),
    ("export", ["model=m", "out=o", "format=adapter", "lora=x"], "lora= has no effect with format=adapter"),
    ("export", ["model=m", "out=o", "format=adapter", "vae_from=x"], "vae_from= has no effect with format=adapter"),
    ("export", ["model=m", "out=o", "format=adapter", "base=x"], "base= has no effect with format=adapter"),
    ("evaluate", ["prompts=[]", "count=3"], "count= has no effect with prompts="),
    *(("train", ["stage=vae", f"vae_loss.{key}=0.1"], f"vae_loss.{key}= has no effect without a critic")
      for key in ("adversarial", "perceptual")),
    ("evaluate", ["prompts=[]", "page=3"], "page= has no effect with prompts="),
    ("evaluate", ["prompts=[]", "measures=[motion]"], "measures= has no effect with prompts="),
    ("ingest", ["v", "out=o", "caption.frames=3"], "caption.frames= has no effect with captioner=given"),
    ("ingest", ["v", "out=o", "caption.bundle=3"], "caption.bundle= has no effect with captioner=given"),
    ("ingest", ["v", "out=o", "caption.workers=3"], "caption.workers= has no effect with captioner=given"),
    ("ingest", ["v", "out=o", "vae=", "encode.bundle=3"], 'encode.bundle= has no effect with vae=""'),
    ("ingest", ["v", "out=o", "precision=bf16"], 'precision= has no effect with text=""'),
    ("ingest", ["v", "out=o", "duplicates.cosine=0.9"], "duplicates.cosine= has no effect with embedder=none"),
    ("encode", ["init=toy", "model=tiny"], "model= has no effect with init="),
    *(
        (command, ["stage=vae", word], f"{word.partition('=')[0]}= has no effect with stage=vae")
        for command in ("train", "doctor")
        for word in ("model=tiny", "model.dim=32", "text=tiny", "flow=rectified", "vae_from=x", "packs.tokens=9",
                     "drop=0", "teacher=null", "samples.seed=1", "request.steps=3", "shift.base_shift=1", "area=[1,2]",
                     "kernel=sdpa")
    ),
    *(
        ("train", [word], f"{word.partition('=')[0]}= has no effect with stage=dit")
        for word in ("vae.base=4", "vae.decoder_base=4", "vae.multipliers=[1]", "vae.blocks=2", "vae.shortcuts=true",
                     "vae.linear=true", "crops.pixels=9", "shared_std=false", "vae_loss.kl=0", "critic=null")
    ),
    ("train", ["init=toy", "model=tiny"], "model= has no effect with init="),
    ("train", ["init=toy", "text.dim=8"], "text.dim= has no effect with init="),
    ("train", ["stage=vae", "init=toy", "vae.base=4"], "vae.base= has no effect with init="),
    ("train", ["init=toy", "adapter=lora", "area=[1,2]"], "area= has no effect with this init="),
    ("train", ["init=wan2.1-t2v-1.3b", "shift.base_shift=2"], "shift.base_shift= has no effect with this init="),
    ("train", ["teacher={model: toy, steps: 4, guidance: 2}", "shift.base_shift=1"],
     "shift.base_shift= has no effect with teacher="),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "told"), REFUSED, ids=[" ".join([row[0], *row[1]]) for row in REFUSED])
def test_what_would_do_nothing_is_refused(
    command: str, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main([command, *words]) == 2
    assert f"videodit: error: {told.split('=')[0]}=" in (said := capsys.readouterr().err) and told in said
    assert not any(tmp_path.rglob("*.*")), "nothing was begun"


def test_each_rule_is_tried() -> None:
    tried = {(command, word.partition("=")[0]) for command, words, _ in REFUSED for word in words}
    for command, rules in IDLE.items():
        for key in (key for rule in rules for key in rule.keys):
            assert any(one == command and (word == key or word.startswith(f"{key}.")) for one, word in tried) or (
                command == "doctor"
            ), f"{command} {key}"


CONTRARY = [
    {"size": "32x32", "width": 40},
    {"size": "32x32", "aspect": "1:1"},
    {"preset": "square", "height": 40},
    {"size": "32x32", "preset": "phone"},
    {"frames": 5, "seconds": 1.0},
    {"aspect": "1:1", "width": 40, "height": 40},
]


@pytest.mark.parametrize("keys", CONTRARY, ids=str)
def test_the_same_is_not_said_twice(
    model: Path, keys: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Python, on the command line, in a line of a file, and where a recipe is changed."""
    import videodit

    with pytest.raises(InputError, match="say the same|say it already"):
        videodit.load(str(model), device="cpu").request("a", **keys)
    words = [f"{key}={value}" for key, value in keys.items()]
    asked = lines(tmp_path / "many.jsonl", {"prompt": "a", **keys})
    for more in (["a ball", *words], [f"prompts={asked}"], ["recipe=none.mp4", *words]):
        out = tmp_path / ("many" if "prompts" in more[0] else "one.mp4")
        assert main(["generate", f"model={model}", f"out={out}", *more]) == 2
        assert "say" in capsys.readouterr().err


def test_an_aspect_takes_the_width_or_the_height_beside_it(model: Path) -> None:
    import videodit

    pipe = videodit.load(str(model), device="cpu")
    assert (pipe.request("a", aspect="2:1", width=64).height, pipe.request("a", aspect="2:1", height=64).width) == (
        32,
        128,
    )


def test_typed_keys_are_known_by_their_plain_names() -> None:
    """hydra's signs do not hide them."""
    from videodit.cli import compose

    line = compose.parse(conf_dir(), "train", ["+model.dim=3", "~text", "++drop=1"], positional=None, sweeps=True)
    assert line.typed() == ["model.dim", "text", "drop"]
    assert effects.IDLE["train"]
