"""A model's answer -> a caption: one paragraph about the clip, without what models say around it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from videodit.ingest.caption import Failed
from videodit.printable import one_line
from videodit.untrusted import KIB, MOST

# Answers may be long, and anybody's: no expression here looks at a character more than a few times.
THOUGHT = re.compile(r"<(/?)think>", re.IGNORECASE)
MARKUP = re.compile(r"\*\*|__|`|^[^\S\n]*(?:#+|[-*•])\s+", re.MULTILINE)
_SURE = r"(?:sure|certainly|of course|okay|ok)\b[^.!?:\n]*[.!:,]\s*"
_HERE = r"here(?:'s| is| are)\b[^.!?:\n]*:\s*"
_LABEL = r"(?:(?:long |short |detailed |video |image )*(?:caption|description|answer|summary))\s*:\s*"
PREAMBLE = re.compile(rf"(?:{_SURE})?(?:{_HERE})?(?:{_LABEL})?", re.IGNORECASE)
_MEDIUM = r"(?:short |brief )?(?:video|clip|footage|image|picture|photo|scene|sequence|frame|shot)s?"
_OF_IT = rf"(?:the|this|these) (?:{_MEDIUM} )?{_MEDIUM}"
_SHOWS = r"(?:shows?|depicts?|features?|captures?|displays?|presents?|showcases?|portrays?|illustrates?)"
BOILERPLATE = re.compile(
    rf"(?:{_OF_IT} {_SHOWS} (?:us )?(?:that )?|in {_OF_IT},? (?:(?:we|you) (?:can )?see |there (?:is|are) )?)",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z0-9])|(?<=[。！？])")
LAST_END = re.compile(r".*(?:[.!?][\"”')]*(?=\s|$)|[。！？][”」]?)", re.DOTALL)
REFUSAL = re.compile(
    r"(?:i'm (?:very |really )?sorry|i am (?:very |really )?sorry|sorry\b|i apologi[sz]e|as an ai\b|unfortunately, i\b"
    r"|i(?:'m| am) (?:unable|not able)\b|i (?:can't|cannot|can not|won't|will not|do not see|don't see)\b"
    r"|(?:there (?:is|are) )?no (?:images?|videos?|frames?)\b[^.]*\b(?:provided|attached|given|visible|here)\b)",
    re.IGNORECASE,
)
WIDE = ("。", "！", "？")
QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»"}


def clean(answer: str, *, cut: bool) -> str | Failed:
    """The caption in an answer; Failed where there is none, or a refusal. cut: the answer ended at its limit."""
    text = " ".join(MARKUP.sub("", without_thoughts(answer)).split())
    text = unquoted(without_preamble(text))
    if refuses(text):
        return Failed(f"the model refused: {one_line(text[:80])}", again=False)
    text = without_repeats(without_boilerplate(without_unfinished(text) if cut else text))
    if not any(character.isalnum() for character in text):
        why = "was cut off before its first sentence ended" if cut and answer.strip() else "is empty"
        return Failed(f"the model's answer {why}", again=False)
    if len(text.encode("utf-8", "replace")) > MOST.caption:
        return Failed(f"the model's answer is longer than {MOST.caption // KIB} KiB", again=False)
    return text


def without_thoughts(answer: str) -> str:
    """Drop what stands between <think> and </think>, or the answer's end."""
    kept, place, thinking = [], 0, False
    for tag in THOUGHT.finditer(answer):
        if tag[1] and thinking:
            place, thinking = tag.end(), False
        elif not tag[1] and not thinking:
            kept.append(answer[place : tag.start()])
            thinking = True
    return "".join(kept if thinking else [*kept, answer[place:]])


def without_preamble(text: str) -> str:
    """Drop "Sure, here is a description:" and "Caption:" at the start."""
    return text[PREAMBLE.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, at least


def unquoted(text: str) -> str:
    """Drop quotation marks around the whole."""
    inside = text[1:-1]
    if len(text) > 2 and QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(inside):
        return inside.strip()
    return text


def refuses(text: str) -> bool:
    """Whether an answer begins with a refusal instead of a caption."""
    return REFUSAL.match(text.replace("’", "'")) is not None


def without_unfinished(text: str) -> str:
    """Drop what follows the last sentence that ended; all of it if none did."""
    found = LAST_END.match(text)
    return found[0] if found else ""


def without_boilerplate(text: str) -> str:
    """Drop "The video shows" and its like from the start of sentences, which begin with a capital again."""
    kept = []
    for sentence in sentences(text):
        rest = BOILERPLATE.sub("", sentence, count=1) if BOILERPLATE.match(sentence) else sentence
        kept.append(rest if rest == sentence else rest[:1].upper() + rest[1:])
    return joined(kept)


def without_repeats(text: str) -> str:
    """Drop sentences that stood there before: small models fall into loops."""
    return joined(dict.fromkeys(sentences(text)))


def sentences(text: str) -> list[str]:
    """Where a sign ends one and a capital or a digit begins the next; abbreviations may be taken for ends."""
    return [part.strip() for part in SENTENCE.split(text) if part.strip()]


def joined(parts: Iterable[str]) -> str:
    """Sentences as one text, with blanks between those that are written with blanks."""
    return "".join(part if part.endswith(WIDE) else f"{part} " for part in parts if part).strip()
