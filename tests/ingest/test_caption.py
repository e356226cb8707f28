"""What captioners share: prompts, frames as pictures, captions that came along; and the configs of all three."""

from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from tests.ingest.tiny_models import request
from videodit.config import conf_dir, secret
from videodit.errors import InputError
from videodit.ingest.caption import Captions, Failed, Given, Prompts, Request, digest, finished, pictures

TEXTS = {"long": "{frames} of {seconds}", "given": "It said {given}", "short": "From {long}"}


def prompts(**other) -> Prompts:
    return Prompts(**({**TEXTS, "tokens_long": 9, "tokens_short": 3} | other))


def test_given_keeps_what_came_and_fails_where_nothing_came() -> None:
    kept = "  a dog,\n running "
    answers = Given()([Request([], 1.0, kept), Request([], 1.0, " \n"), Request([], 1.0, "b")])
    assert answers[0] == Captions(raw=kept, long=kept, short=kept, made_by="given")
    assert answers[1] == Failed("has no caption", again=False)
    assert answers[2].raw == "b" and Given().fingerprint == "given"


def test_prompts_are_filled_once() -> None:
    """A caption with braces, or one that names a place, is taken as it is."""
    asked = prompts().ask_long(request(0, frames=2, given="{seconds} {x}\n {}"))
    assert asked == "2 of 2.0\nIt said {seconds} {x} {}"
    assert prompts().ask_long(request(0, frames=2, given=" ")) == "2 of 2.0"
    assert prompts().ask_short("a {long} dog") == "From a {long} dog"


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"long": "{frame}"}, r"captioner\.prompts\.long: \{frame\} is not known there"),
        ({"given": "It came with one"}, r"captioner\.prompts\.given: it lacks \{given\}"),
        ({"short": "{long} {given}"}, r"captioner\.prompts\.short: \{given\} is not known there"),
        ({"tokens_short": 0}, r"captioner\.prompts\.tokens_short=0: it is 1 or more"),
    ],
)
def test_wrong_prompts_are_named(wrong: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        prompts(**wrong)


def test_pictures_shrink_and_never_grow() -> None:
    wide = np.arange(40 * 100 * 3, dtype=np.uint8).reshape(40, 100, 3)
    (small,), (same,) = pictures(Request([wide], 1, ""), 50), pictures(Request([wide], 1, ""), 100)
    assert small.size == (50, 20) and (np.asarray(same) == wide).all()
    (line,) = pictures(Request([wide[:1]], 1, ""), 10)
    assert line.size == (10, 1)


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_no_frames(frame: np.ndarray) -> None:
    answer = pictures(Request([frame], 1.0, ""), 16)
    assert isinstance(answer, Failed) and "uint8 (H,W,3)" in answer.reason and not answer.again


def test_the_first_failure_counts() -> None:
    one, two = Failed("one", again=True), Failed("two", again=False)
    clip = request(0, given="raw")
    assert finished(clip, one, two, "m") is one and finished(clip, "long", two, "m") is two
    assert finished(clip, "long", "short", "m") == Captions(raw="raw", long="long", short="short", made_by="m")


def test_a_digest_is_the_same_in_every_process() -> None:
    assert digest("a", 1, 0.5) == "ddbb6b6d6bbe554a"
    assert digest("a", 1) != digest("a", "1")


def test_a_secret_is_read_or_named(monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", " sk-1\n")
    assert secret("SOME_KEY") == "sk-1"
    monkeypatch.setenv("SOME_KEY", " ")
    with pytest.raises(InputError, match="^SOME_KEY: this environment variable should hold a key, and is not set$"):
        secret("SOME_KEY")


@pytest.mark.parametrize("name, needed", [("given", []), ("image_text", []), ("endpoint", ["captioner.model=m"])])
def test_the_configs_make_captioners(name: str, needed: list[str]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        cfg = compose(overrides=[f"+captioner={name}", *needed])
    made = instantiate(cfg.captioner, _convert_="all")
    assert callable(made)
    if name != "given":
        assert "4 frames" in made.prompts.ask_long(request(0, frames=4)) and made.prompts.tokens_long > 100
