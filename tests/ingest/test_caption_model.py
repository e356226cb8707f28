"""Captions by a local model: tiny random ones, saved and opened as real ones are. What they say means nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ingest.tiny_models import WORDS, prompts, request, save_idefics, save_llava
from videodit.errors import InputError
from videodit.ingest import caption_model
from videodit.ingest.caption import Captions, Failed, Request
from videodit.ingest.caption_model import Draws, ImageText

CLIPS = [
    request(i, frames=1 + i % 3, given=["", "Car. Dog.", "{seconds} <image> </s> Car."][i % 3], size=size)
    for i, size in enumerate([(20, 30), (64, 40), (50, 50), (20, 30), (30, 64), (16, 16)])
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread: thirty times as long where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def idefics(tmp_path_factory) -> Path:
    return save_idefics(tmp_path_factory.mktemp("idefics"))


def captioner(model: Path | str, **other: Any) -> ImageText:
    arguments = {"model": str(model), "revision": "main", "device": "cpu", "dtype": "", "together": 8, "edge": 64,
                 "prompts": prompts(), "temperature": 0.0, "seed": 0}  # fmt: skip
    return ImageText(**(arguments | other))


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many clips went through each pass."""
    sizes: list[int] = []
    generate = caption_model.generate

    def counted(network, processor, chats, *rest):
        sizes.append(len(chats))
        return generate(network, processor, chats, *rest)

    monkeypatch.setattr(caption_model, "generate", counted)
    return sizes


@pytest.mark.parametrize("architecture", ["llava", "idefics"])
def test_together_is_one_by_one(request, passes, architecture: str) -> None:
    """Also with other numbers and sizes of frames, with captions that came along and ones that hold marks."""
    folder = request.getfixturevalue(architecture)
    together, single = captioner(folder)(CLIPS), captioner(folder, together=1)(CLIPS)
    assert passes == [6, 6] + [1] * 12
    assert together == single
    assert [answer.raw for answer in together] == [clip.given for clip in CLIPS]
    assert len({answer.long for answer in together}) == 6  # the frames count
    for answer in together:
        assert set(answer.long.split()) <= set(WORDS) and 0 < len(answer.short.split()) <= 3
        assert answer.made_by.startswith(f"{folder.name}+")


def test_greedy_is_the_same_each_time_whatever_the_generation_config_asks_for(llava) -> None:
    torch.manual_seed(1)
    first = captioner(llava)(CLIPS[:2])
    torch.manual_seed(2)
    assert captioner(llava, seed=5)(CLIPS[:2]) == first


def test_draws_depend_on_the_clip_and_the_seed_alone(llava) -> None:
    drawn = captioner(llava, temperature=1.0)(CLIPS[:4])
    assert captioner(llava, temperature=1.0, together=3)(CLIPS[3::-1]) == drawn[::-1]
    longs = [[answer.long for answer in captioner(llava, temperature=1.0, seed=seed)(CLIPS[:4])] for seed in (0, 1)]
    assert longs[0] == [answer.long for answer in drawn] != longs[1]


def test_draws_have_the_softmax_as_their_distribution() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    draws = Draws(0.5, range(20000))
    found = draws(torch.zeros(20000, 1), logits.expand(20000, 4)).argmax(1).bincount(minlength=4) / 20000
    assert (found - torch.softmax(logits / 0.5, 0)).abs().max() < 0.01


def test_a_bad_clip_stops_no_other(llava, passes) -> None:
    broken = request(7)
    broken.frames[0] = broken.frames[0].astype(float)  # type: ignore[index]
    clips = [CLIPS[0], Request([], 1.0, ""), CLIPS[1], broken]
    answers = captioner(llava)(clips)
    assert answers[1] == Failed("has no frames", again=False)
    assert answers[3].reason.startswith("a frame is float64 ") and passes == [2, 2]
    assert [answers[0].long, answers[2].long] == [answer.long for answer in captioner(llava)(CLIPS[:2])]


@pytest.mark.parametrize("error, again", [(ValueError("odd\nclip"), False), (torch.OutOfMemoryError("odd"), True)])
def test_what_a_pass_raises_is_narrowed_down(llava, monkeypatch, error: Exception, again: bool) -> None:
    generate, sizes = caption_model.generate, []

    def fragile(network, processor, chats, *rest):
        sizes.append(len(chats))
        if any(images and images[0].size == (40, 64) for images, *_ in chats):
            raise error
        return generate(network, processor, chats, *rest)

    whole = captioner(llava)(CLIPS[:4])
    monkeypatch.setattr(caption_model, "generate", fragile)
    answers = captioner(llava)(CLIPS[:4])
    assert sizes == [4, 2, 1, 1, 2, 3]
    assert answers[1] == Failed(f"{type(error).__name__}: odd", again)
    assert [*answers[:1], *answers[2:]] == [*whole[:1], *whole[2:]]


def test_too_little_memory_for_all_at_once_costs_no_clip(llava, monkeypatch) -> None:
    generate = caption_model.generate

    def small(network, processor, chats, *rest):
        if len(chats) > 2:
            raise torch.OutOfMemoryError("too many")
        return generate(network, processor, chats, *rest)

    whole = captioner(llava)(CLIPS)
    monkeypatch.setattr(caption_model, "generate", small)
    assert captioner(llava)(CLIPS) == whole


def test_a_cut_answer_without_a_sentence_fails(llava, monkeypatch) -> None:
    monkeypatch.setattr(caption_model, "generate", lambda n, p, chats, *_: [("A dog ru", True)] * len(chats))
    reason = "the model's answer was cut off before its first sentence ended"
    assert captioner(llava)(CLIPS[:2]) == [Failed(reason, again=False)] * 2


def test_an_answer_is_cut_at_the_limit_or_ends_by_itself(llava) -> None:
    network, processor = caption_model.open_model(str(llava), None, "cpu", "float32")
    chats = [([], "Tree.", 0), ([], "Sea. Road.", 0)]
    assert all(cut and len(text.split()) == 4 for text, cut in caption_model.generate(network, processor, chats, 4, 0))
    network.generation_config.eos_token_id = [2, *processor.tokenizer.convert_tokens_to_ids(WORDS)]
    ended = caption_model.generate(network, processor, chats, 4, 0)
    assert all(not cut and len(text.split()) == 1 for text, cut in ended)


def test_the_fingerprint_is_of_weights_prompts_and_parameters(llava, tmp_path) -> None:
    copy = shutil.copytree(llava, tmp_path / "copy")
    base = captioner(llava).fingerprint
    assert captioner(copy, together=1, device="cpu").fingerprint == base == captioner(llava, seed=1).fingerprint
    others = [{"edge": 16}, {"prompts": prompts(long=13)}, {"dtype": "bfloat16"}, {"temperature": 1.0},
              {"temperature": 1.0, "seed": 1}]  # fmt: skip
    assert len({base, *(captioner(llava, **other).fingerprint for other in others)}) == 6
    assert captioner(save_llava(tmp_path / "other", seed=1)).fingerprint != base


def test_a_hub_id_is_its_commit_in_the_cache(llava, tmp_path, monkeypatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(llava, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download", "transformers.utils.hub"):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            monkeypatch.setattr(f"{module}.{name}", str(tmp_path), raising=False)
    made = captioner("someone/tiny")
    (answer,) = made(CLIPS[:1])
    assert isinstance(answer, Captions) and answer.made_by == f"someone/tiny+{made.fingerprint}"
    assert captioner("someone/tiny", revision=commit).fingerprint == made.fingerprint
    with pytest.raises(InputError, match="captioner.model=someone/other: neither a folder nor a hub id"):
        _ = captioner("someone/other").fingerprint


def test_what_cannot_be_opened_is_named(llava, tmp_path) -> None:
    with pytest.raises(InputError, match="no config.json is there"):
        captioner(tmp_path)(CLIPS[:1])
    silent = shutil.copytree(llava, tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        captioner(silent)(CLIPS[:1])
    pickled = shutil.copytree(llava, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be opened") as caught:
        captioner(pickled)(CLIPS[:1])
    assert "\n" not in str(caught.value)


def test_no_code_of_a_model_is_run(llava, tmp_path) -> None:
    foreign = shutil.copytree(llava, tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "own.py").write_text("raise SystemExit('foreign code was run')")
    with pytest.raises(InputError, match="cannot be opened"):
        captioner(foreign)(CLIPS[:1])


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"together": 0}, {"edge": 0}, {"temperature": -1.0}])
def test_bad_input_is_named(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"^captioner\.{key}={value}: it is "):
        captioner("m", **wrong)
