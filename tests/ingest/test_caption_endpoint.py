"""Captions by a server: what it is sent, in which order answers come, and what becomes of every kind of failure."""

from __future__ import annotations

import base64
import gzip
import io
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.ingest.chat_server import ChatServer, Reply, Seen, completion, echo, error
from tests.ingest.commands import folder, rows
from tests.ingest.tiny_models import request
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.ingest.caption import Captions, Failed, Prompts
from videodit.ingest.caption_endpoint import Endpoint
from videodit.ingest.caption_http import Meter, Price, Retry
from videodit.untrusted import MOST

PROMPTS = Prompts(long="long {frames} {seconds}", given="came {given}", short="short of {long}", tokens_long=50,
                  tokens_short=9)  # fmt: skip
FREE = Price(input=0.0, output=0.0, budget=None)
KEY = "sk-very-secret"


def endpoint(server: ChatServer | str, *, times: int = 3, **other: Any) -> tuple[Endpoint, list[float]]:
    """An endpoint whose waits take no time, drawn at their bounds, and the list of them."""
    arguments: dict[str, Any] = {"url": server if isinstance(server, str) else server.url, "model": "m", "key": "",
                                 "prompts": PROMPTS, "edge": 16, "limit": "max_tokens", "options": {"temperature": 0},
                                 "concurrency": 1, "timeout": 5.0, "price": FREE,
                                 "retry": Retry(times=times, first=1.0, longest=60.0)}  # fmt: skip
    made, waits = Endpoint(**(arguments | other)), []
    made.connection.sleep = waits.append
    made.connection.draw = lambda low, high: high
    return made, waits


def ask(server: ChatServer, count: int = 1, **other: Any) -> tuple[list[Captions | Failed], Endpoint, list[float]]:
    """The captions of so many clips, whose given captions are their numbers."""
    with server:
        made, waits = endpoint(server, **other)
        return made([request(i, frames=2, given=f"n{i}") for i in range(count)]), made, waits


def lost(answers: list[Captions | Failed]) -> list[Failed]:
    return [answer for answer in answers if isinstance(answer, Failed)]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Every line that any library logs, debugging included."""
    lines: list[str] = []
    root, handler = logging.getLogger(), logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.setLevel(level)
    root.removeHandler(handler)


def test_what_is_sent_and_what_comes_back() -> None:
    server = ChatServer()
    (answer,), made, _ = ask(server)
    assert answer == Captions(
        raw="n0", long="Said long 2 2.0 came n0.", short="Said short of Said long 2 2.0 came n0..", made_by=made.made_by
    )
    long, short = server.seen
    assert long.path == short.path == "/v1/chat/completions" and "Authorization" not in long.headers
    assert long.body["model"] == "m" and long.body["temperature"] == 0
    assert (long.body["max_tokens"], short.body["max_tokens"]) == (50, 9)
    assert len(long.images) == 2 and not short.images
    kind, _, data = long.images[0].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/jpeg;base64" and image.format == "JPEG" and image.size == (16, 11)  # of 30x20


def test_many_clips_keep_their_order_and_overlap() -> None:
    barrier = threading.Barrier(4)

    def together(seen: Seen) -> Reply:
        if seen.images:
            barrier.wait(timeout=20)  # passes only if four long requests are there at once
        return echo(seen)

    server = ChatServer(otherwise=together)
    answers, made, _ = ask(server, 12, concurrency=4)
    assert [answer.raw for answer in answers] == [f"n{i}" for i in range(12)]  # type: ignore[union-attr]
    assert all(f"n{i}." in answer.long for i, answer in enumerate(answers))  # type: ignore[union-attr]
    assert server.most == 4 and len(server.seen) == 24 and made.usage["answers"] == 24


def test_errors_that_pass_lose_no_caption() -> None:
    server = ChatServer(error(500, "oops"), error(503, "busy"), completion("A dog."), Reply(drop=True), error(408, "?"))
    answers, _, waits = ask(server, 3)
    assert not lost(answers) and answers[0].long == "A dog."  # type: ignore[union-attr]
    assert len(server.seen) == 6 + 4 and waits == [1.0, 2.0, 1.0, 2.0]


def test_a_silent_server_is_asked_again() -> None:
    server = ChatServer(Reply(drop=True, seconds=0.6))
    answers, _, waits = ask(server, 1, timeout=0.2)
    assert not lost(answers) and len(server.seen) == 3 and waits == [1.0]


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_is_late(part: str) -> None:
    server = ChatServer(Reply(drip=part))
    answers, _, waits = ask(server, 2, times=0, timeout=1.0)
    assert answers[0] == Failed(f"{server.url}: no answer in 1 s, 1 times", again=True) and waits == []
    assert isinstance(answers[1], Captions)


def test_an_answer_of_any_size_takes_little_memory() -> None:
    """A megabyte of gzip may be a gigabyte of text, and a plain answer need not end."""
    bomb = gzip.compress(b" " * 2**24 + completion("A dog.").body)
    server = ChatServer(Reply(body=bomb, headers={"Content_Encoding": "gzip"}), Reply(body=b" " * (MOST.answer + 1)),
                        Reply(body=b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
                        completion("A dog. " * 20_000))  # fmt: skip
    answers, _, waits = ask(server, 5)
    assert [one.reason.removeprefix(f"{server.url}: ") for one in lost(answers)] == [
        "the answer is compressed, which was not asked for", "the answer is longer than 1024 KiB",
        "the answer is no JSON object"]  # fmt: skip
    assert all(seen.headers["Accept-Encoding"] == "identity" for seen in server.seen) and waits == []


def test_what_a_server_says_cannot_steer_a_terminal() -> None:
    answers, *_ = ask(ChatServer(error(400, "\x1b[31mred\x07\u202e"), completion("I'm sorry \x1b[2J.")), 2)
    assert len(lost(answers)) == 2 and all(one.reason.isprintable() for one in lost(answers))


def test_tries_end_and_the_clip_may_be_tried_again() -> None:
    server = ChatServer(*[error(502, "bad gateway")] * 4)
    answers, made, waits = ask(server, 2)
    assert answers[0] == Failed(f"{server.url}: 502: bad gateway, 4 times", again=True)
    assert isinstance(answers[1], Captions) and len(server.seen) == 4 + 2
    assert waits == [1.0, 2.0, 4.0] and made.usage["answers"] == 2


def test_retry_after_is_honoured_in_seconds_and_as_a_date() -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server = ChatServer(error(429, "slow", Retry_After="7"), error(429, "slow", Retry_After=until))
    answers, _, (first, second) = ask(server)
    assert not lost(answers)
    assert first == 7 + 1.0 and 27 < second - 2.0 <= 30


def test_more_patience_than_there_is_leaves_the_clip_for_later() -> None:
    server = ChatServer(error(429, "slow", Retry_After="3600"))
    answers, _, waits = ask(server)
    assert answers == [Failed(f"{server.url}: 429: slow, and asks for 3600 s of patience", again=True)]
    assert waits == [] and len(server.seen) == 1


def test_what_a_request_is_refused_for_is_not_repeated() -> None:
    server = ChatServer(error(400, "image too large"), Reply(422, b"plain words"))
    answers, _, waits = ask(server, 3)
    assert answers[0] == Failed(f"{server.url}: 400: image too large", again=False)
    assert answers[1] == Failed(f"{server.url}: 422: plain words", again=False)
    assert isinstance(answers[2], Captions) and waits == [] and len(server.seen) == 4


@pytest.mark.parametrize(
    "reply, reason, again",
    [
        (Reply(body=b"<html>"), "the answer is no JSON object", True),
        (Reply(body=b"[1]"), "the answer is no JSON object", True),
        (Reply(body=b"\xff{}"), "the answer is no JSON object", True),
        (Reply(body=b"{}"), "the answer is no chat completion", True),
        (Reply(body=b'{"choices": []}'), "the answer is no chat completion", True),
        (Reply(body=b'{"choices": [{"message": "hm"}]}'), "the answer is no chat completion", True),
        (completion(7), "the answer is no chat completion", True),
        (completion(""), "the model's answer is empty", False),
        (completion(None), "the model's answer is empty", False),
        (completion("I'm sorry, I can't see it."), "the model refused: I'm sorry, I can't see it.", False),
        (completion("A dog", finish_reason="content_filter"), "the model refused: content_filter", False),
        (completion(None, message={"refusal": "No\nway."}), "the model refused: No way.", False),
        (completion("A dog ru", finish_reason="length"),
         "the model's answer was cut off before its first sentence ended", False),
    ],
)  # fmt: skip
def test_an_answer_without_a_caption_fails_that_clip_alone(reply: Reply, reason: str, again: bool) -> None:
    server = ChatServer(reply)
    answers, _, waits = ask(server, 2)
    assert answers[0] == Failed(reason, again)
    assert isinstance(answers[1], Captions) and waits == [] and len(server.seen) == 3


def test_text_in_parts_and_sentences_that_are_cut() -> None:
    parts = completion([{"type": "text", "text": "The video shows a dog. It ru"}], finish_reason="length")
    (answer,), *_ = ask(ChatServer(parts))
    assert isinstance(answer, Captions) and answer.long == "A dog."


@pytest.mark.parametrize(
    "status, says",
    [(401, "does not take this key"), (403, "may not do this"), (404, "no such path or model"), (402, "paid first"),
     (307, "sends requests elsewhere")],
)  # fmt: skip
def test_what_would_meet_every_clip_stops_the_run(monkeypatch, logged, status: int, says: str) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server = ChatServer(otherwise=lambda _: error(status, f"no:\nkey {KEY} model m"))
    with pytest.raises(InputError, match=says) as caught:
        ask(server, 20, key="SOME_KEY", concurrency=2)
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert len(server.seen) <= 4  # those under way, no more
    assert "\n" not in str(caught.value) and server.url in str(caught.value)
    assert KEY not in str(caught.value)
    assert logged and not any(KEY in line for line in logged)


def test_waits_end_when_the_run_is_stopped() -> None:
    first = threading.Event()

    def answer(seen: Seen) -> Reply:
        if "n0" in seen.text:
            first.set()
            return error(503, "busy", Retry_After="50")
        first.wait(20)
        return error(401, "no")

    with ChatServer(otherwise=answer) as server:
        made, _ = endpoint(server, concurrency=2)
        made.connection.sleep = made.connection.stopping.wait  # the real one: 51 seconds
        started = datetime.now(UTC)
        with pytest.raises(InputError, match="401"):
            made([request(i, given=f"n{i}") for i in range(2)])
        assert datetime.now(UTC) - started < timedelta(seconds=20)


def test_a_server_that_was_never_there_stops_the_run() -> None:
    with ChatServer() as server:
        gone = server.url
    made, waits = endpoint(gone)
    with pytest.raises(InputError, match="there is no server to reach"):
        made([request(0)])
    assert waits == [1.0, 2.0, 4.0]


def test_usage_is_summed_and_priced() -> None:
    server = ChatServer(otherwise=lambda seen: completion("A dog.", (1000, 100) if seen.images else (50, 20)))
    answers, made, _ = ask(server, 3, price=Price(input=2.0, output=10.0, budget=None), concurrency=3)
    usage = made.usage
    assert not lost(answers)
    cost = pytest.approx((3150 * 2 + 360 * 10) / 1e6)
    assert usage == {"answers": 6, "input_tokens": 3150, "output_tokens": 360, "cost": cost}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_stops_requests_and_loses_no_clip_for_good(concurrency: int) -> None:
    """Every request costs 1: a budget of 7 has room for seven, and the first ones, whose cost nobody knew."""
    server = ChatServer(otherwise=lambda _: completion("A dog.", (1_000_000, 0)))
    answers, made, _ = ask(server, 20, price=Price(input=1.0, output=0.0, budget=7.0), concurrency=concurrency)
    assert len(server.seen) == 7 and made.usage["cost"] == pytest.approx(7)
    assert len(answers) - len(lost(answers)) in (2, 3)
    assert all(failed.again and "budget of 7" in failed.reason for failed in lost(answers))


def test_a_budget_needs_prices_and_counts() -> None:
    with pytest.raises(InputError, match="prices of a million tokens"):
        Price(input=0.0, output=0.0, budget=1.0)
    with pytest.raises(InputError, match="does not tell its usage"):
        ask(ChatServer(otherwise=lambda _: completion("A dog.", None)), price=Price(input=1.0, output=1.0, budget=1.0))
    answers, made, _ = ask(ChatServer(otherwise=lambda _: completion("A dog.", None)))
    assert not lost(answers) and made.usage["input_tokens"] == 0  # without a budget it does no harm


def test_the_meter_holds_back_what_is_under_way() -> None:
    meter = Meter(Price(input=1.0, output=0.0, budget=3.0))
    assert meter.enter() is None
    meter.leave({"prompt_tokens": 1_000_000})
    assert meter.enter() is None and meter.enter() is None and meter.enter() is not None
    meter.leave(None)  # no answer: nothing was paid
    assert meter.enter() is None


def test_waits_are_drawn_between_zero_and_a_bound_that_doubles() -> None:
    retry = Retry(times=9, first=0.5, longest=6.0)
    assert [retry.bound(repeat) for repeat in range(6)] == [0.5, 1.0, 2.0, 4.0, 6.0, 6.0]
    with ChatServer(*[error(500, "?")] * 2) as server:
        made, waits = endpoint(server)
        drawn: list[tuple[float, float]] = []
        made.connection.draw = lambda low, high: drawn.append((low, high)) or 0.25  # type: ignore[func-returns-value]
        made([request(0)])
    assert drawn == [(0.0, 1.0), (0.0, 2.0)] and waits == [0.25, 0.25]


def test_clips_without_usable_frames_ask_nothing() -> None:
    with ChatServer() as server:
        made, _ = endpoint(server)
        none, wrong = request(0, frames=0), request(1)
        wrong.frames[1] = wrong.frames[1][..., 0]  # type: ignore[index]
        assert made([none, wrong]) == [
            Failed("has no frames", again=False),
            Failed("a frame is uint8 (20, 30), not uint8 (H,W,3)", again=False),
        ]
    assert not server.seen


def test_the_fingerprint_is_of_what_captions_depend_on() -> None:
    base, _ = endpoint("http://127.0.0.1:1/v1")
    same, _ = endpoint("http://localhost:2/v1/", concurrency=5, timeout=9.0)
    other = [endpoint("http://a", model="n"), endpoint("http://a", edge=32), endpoint("http://a", options={})]
    assert base.fingerprint == same.fingerprint and base.made_by == f"m+{base.fingerprint}"
    assert len({base.fingerprint, *(made.fingerprint for made, _ in other)}) == 4


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"server": "localhost:8000"}, r"captioner\.url=localhost:8000: it begins with http"),
        ({"server": "http://me:pw@host/v1"}, r"captioner\.url: host and a path only"),
        ({"server": "http://host/v1?key=pw"}, r"captioner\.url: host and a path only"),
        ({"key": "NO_SUCH_KEY"}, "NO_SUCH_KEY: this environment variable should hold a key, and is not set"),
        ({"concurrency": 0}, r"captioner\.concurrency=0"),
        ({"options": {"messages": []}}, r"captioner\.options\.messages"),
    ],
)
def test_bad_input_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        endpoint(**({"server": "http://host/v1"} | wrong))
    assert "pw" not in str(caught.value)


def test_a_key_with_a_line_in_it_is_not_told(monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-a\nsk-b")
    with pytest.raises(InputError, match="holds no key") as caught:
        endpoint("http://host/v1", key="SOME_KEY")
    assert "sk-" not in str(caught.value)


def test_the_command_asks_a_server_from_its_worker_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it cost comes back from them; a second run asks nothing."""
    videos, server = folder(tmp_path / "videos", 2), ChatServer()
    with server:
        command = ["ingest", str(videos), f"out={tmp_path / 'set'}", "vae=", "report=false", "engine.workers=1"]
        asked = ["captioner=endpoint", f"captioner.url={server.url}", "captioner.model=m", "captioner.price.input=1"]
        assert main([*command, *asked]) == 0
        said = capsys.readouterr().out
        assert len(server.seen) == 4 and "captions of this run: 4 answers, 400 tokens read" in said
        assert all(row["captioned_by"].startswith("m+") and row["caption_long"] for row in rows(tmp_path / "set"))
        assert main([*command, *asked]) == 0
        assert len(server.seen) == 4
