"""Answers and the captions in them, case by case."""

from __future__ import annotations

import pytest

from videodit.ingest.caption import Failed
from videodit.ingest.caption_clean import clean, refuses, without_thoughts
from videodit.untrusted import KIB, MOST


@pytest.mark.parametrize(
    "answer, caption",
    [
        ("  A dog\n\nruns.  ", "A dog runs."),
        ("A dog runs", "A dog runs"),
        ('"A dog runs."', "A dog runs."),
        ("“A dog runs.”", "A dog runs."),
        ('"Stop" says the sign on a "wall"', '"Stop" says the sign on a "wall"'),
        ("The video shows a dog.", "A dog."),
        ("the video shows us a dog.", "A dog."),
        ("This short video clip depicts a dog running.", "A dog running."),
        ("The image sequence captures a dog.", "A dog."),
        ("These frames show that a dog runs.", "A dog runs."),
        ("In this video, we can see a dog.", "A dog."),
        ("In the video clip there is a dog.", "A dog."),
        ("A dog runs. The video shows it from above.", "A dog runs. It from above."),
        ("The video player shows a dog.", "The video player shows a dog."),
        ("The videographer shows a dog.", "The videographer shows a dog."),
        ("The dog features a collar.", "The dog features a collar."),
        ("Caption: A dog.", "A dog."),
        ("**Detailed description:** A dog.", "A dog."),
        ("Sure! Here is a detailed caption: A dog.", "A dog."),
        ("Certainly, here's the description of the clip:\n\nThe clip shows a dog.", "A dog."),
        ("Here are two dogs.", "Here are two dogs."),
        ("Surely a dog.", "Surely a dog."),
        ("# Dog\n- It **runs**.\n- It `stops`.", "Dog It runs. It stops."),
        ("<think>The user wants\na caption.</think>\nA dog.", "A dog."),
        ("It runs. It stops. It runs. It stops. It runs.", "It runs. It stops."),
        ("It is 3.5 m long. 2 dogs.", "It is 3.5 m long. 2 dogs."),
        ("一只狗在跑。天黑了。", "一只狗在跑。天黑了。"),
        ("Sorrel horses graze.", "Sorrel horses graze."),
    ],
)
def test_a_finished_answer(answer: str, caption: str) -> None:
    assert clean(answer, cut=False) == caption


@pytest.mark.parametrize(
    "answer, caption",
    [
        ("A dog runs. It sto", "A dog runs."),
        ("A dog runs. It is 3.5 m", "A dog runs."),
        ('A sign says "Stop!" The dog', 'A sign says "Stop!"'),
        ("A dog runs.", "A dog runs."),
        ("一只狗在跑。天黑", "一只狗在跑。"),
        ("It runs. It stops. It runs. It st", "It runs. It stops."),
    ],
)
def test_an_answer_that_was_cut(answer: str, caption: str) -> None:
    assert clean(answer, cut=True) == caption


@pytest.mark.parametrize(
    "answer, cut, reason",
    [
        ("", False, "the model's answer is empty"),
        (" \n ", True, "the model's answer is empty"),
        ("...", False, "the model's answer is empty"),
        ("Caption:", False, "the model's answer is empty"),
        ("The video shows", True, "the model's answer was cut off before its first sentence ended"),
        ("<think>Hm, what is", True, "the model's answer was cut off before its first sentence ended"),
        ("I'm sorry, but I can't help.", False, "the model refused: I'm sorry, but I can't help."),
    ],
)
def test_an_answer_without_a_caption(answer: str, cut: bool, reason: str) -> None:
    assert clean(answer, cut=cut) == Failed(reason, again=False)


@pytest.mark.parametrize(
    "text, refused",
    [
        ("I’m sorry, but no.", True),
        ("I cannot describe people.", True),
        ("As an AI model, I have no eyes.", True),
        ("Unfortunately, I only see text.", True),
        ("No images were provided.", True),
        ("There are no frames attached to this message.", True),
        ("I don't see any video.", True),
        ("No image on the wall is straight.", False),
        ("A man says sorry.", False),
        ("As an airplane lands, it rains.", False),
    ],
)
def test_refusals(text: str, refused: bool) -> None:
    assert refuses(text) is refused


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<think></think>", "\n", " ", "#", "# ", "* \n", "sure, ",
                                   "no images ", ".", '."', ".\"'", "The video shows ", "a. ", "caption ",
                                   "“"])  # fmt: skip
@pytest.mark.parametrize("cut", [False, True])
def test_the_worst_of_answers_is_gone_through_once(piece: str, cut: bool) -> None:
    """What repeats for a quarter of a megabyte: an expression that goes back to each place would take hours."""
    found = clean("Sure, <think>" + piece * (256 * KIB // len(piece)), cut=cut)
    assert isinstance(found, Failed) or len(found) <= MOST.caption
    clean(piece * (256 * KIB // len(piece)), cut=cut)
    clean("no image " + piece * (256 * KIB // len(piece)), cut=cut)


def test_thoughts_end_where_they_say() -> None:
    assert without_thoughts("a<think>b<think>c</think>d</think>e<THINK>f</Think>g") == "ad</think>eg"
    assert without_thoughts("a</think>b<think>c") == "a</think>b"
