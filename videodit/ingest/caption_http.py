"""Chat completions over HTTP: one request, tried again while it may succeed, its tokens counted and paid for.

Waits between tries are drawn evenly from 0 to a bound that doubles ("full jitter": Brooker 2015, "Exponential Backoff
And Jitter"), so that requests which failed together do not come back together.
"""

from __future__ import annotations

import asyncio
import random
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import responses
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from videodit.errors import InputError, Stop
from videodit.ingest.caption import Failed
from videodit.printable import one_line
from videodit.untrusted import KIB, MOST, parse_json

if TYPE_CHECKING:
    import httpx

AGAIN = {408, 425, 429}  # and 5xx: what may pass
TOKENS = 10**9  # that an answer may have cost
STOP = {
    401: "it does not take this key",
    402: "it wants to be paid first",
    403: "this key may not do this",
    404: "it has no such path or model",
}


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a request is repeated, `times` at most, and the bound of the first wait and of all, in seconds."""

    times: int
    first: float
    longest: float

    def __post_init__(self) -> None:
        if min(self.times, self.first, self.longest) < 0:
            raise InputError("captioner.retry: times, first and longest are 0 or more")

    def bound(self, repeat: int) -> float:
        """Of the wait before a repeat, counted from 0."""
        return min(self.longest, self.first * 2.0 ** min(repeat, 60))


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of a million tokens that are read (input) and written (output); budget: what may be spent, None for any sum.

    Only answers tell what they cost. A request that ran out of time here may be charged for there.
    """

    input: float
    output: float
    budget: float | None

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.budget or 0.0) < 0:
            raise InputError("captioner.price: no price and no budget is below 0")
        if self.budget is not None and not self.input + self.output:
            raise InputError("captioner.price.budget: give input and output, the prices of a million tokens, with it")


@dataclass(frozen=True)
class Usage:
    """What was answered so far: how many requests, tokens read and written, and their cost."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class Meter:
    """Adds up usage from many threads, and lets a request pass while the budget has room for it and those under way.

    What a request will cost is taken to be the most that one has cost. Before the first answer nothing is known: that
    many requests may pass as are sent at once.
    """

    def __init__(self, price: Price) -> None:
        self.price, self.usage = price, Usage()
        self._lock, self._under_way, self._dearest = threading.Lock(), 0, 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process, which counts for itself."""
        return Meter, (self.price,)

    def enter(self) -> Failed | None:
        """Before a request, which `leave` ends."""
        with self._lock:
            budget, cost = self.price.budget, self.usage.cost
            if budget is not None and (cost >= budget or cost + (self._under_way + 1) * self._dearest > budget):
                return Failed(f"the budget of {budget:g} has no room for it ({cost:.4g} are spent)", again=True)
            self._under_way += 1
            return None

    def leave(self, told: Mapping[str, Any] | None) -> None:
        """After a request; `told` is the answer's own count, None if no answer came."""
        with self._lock:
            self._under_way -= 1
            if told is None:
                return
            read, written = (_count(told.get(key)) for key in ("prompt_tokens", "completion_tokens"))
            cost = (read * self.price.input + written * self.price.output) / 1e6
            self._dearest, old = max(self._dearest, cost), self.usage
            self.usage = replace(
                old,
                answers=old.answers + 1,
                input_tokens=old.input_tokens + read,
                output_tokens=old.output_tokens + written,
                cost=old.cost + cost,
            )


class Answer(NamedTuple):
    """What a server sent: status, headers, and as much of the body as may be read."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Connection:
    """One server. Safe to use from many threads.

    Requests are made in a loop of their own, where one can be given up wherever it is: a server that sends a byte now
    and then is as late as one that sends nothing.

    Args:
        url: of the interface, such as http://127.0.0.1:8000/v1.
        key: sent as a bearer token, and never told in a message; "" sends none.
        connections: at once, at most.
        timeout: seconds that a request may take in all, from connecting to the last byte.
        retry, meter: above.
    """

    def __init__(self, *, url: str, key: str, connections: int, timeout: float, retry: Retry, meter: Meter) -> None:
        self.url, self.retry, self.meter = checked(url), retry, meter
        self._how = {"url": url, "key": key, "connections": connections, "timeout": timeout, "retry": retry}
        self._key, self._connections, self._timeout = key, connections, timeout
        if not (key.isascii() and key.isprintable()):
            raise InputError("captioner.key: the variable that it names holds no key, but blanks or other characters")
        self._client: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None
        self._reached = False  # whether a server was ever there
        self._opening = threading.Lock()
        self.stopping = threading.Event()  # set: no more tries, and waits end
        self.sleep: Callable[[float], object] = self.stopping.wait
        self.draw: Callable[[float, float], float] = random.uniform

    def __repr__(self) -> str:
        return f"Connection({self.url})"

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process, which opens a connection of its own."""
        return partial(Connection, **self._how, meter=self.meter), ()

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any] | Failed:
        """The JSON object that answers a chat completion's; Failed for this request, Stop for all of them."""
        last = Failed("the run was stopped", again=True)
        for repeat in range(self.retry.times + 1):
            if self.stopping.is_set():
                return Failed("the run was stopped", again=True)
            if full := self.meter.enter():
                return full
            outcome, wait = self._try(body)
            if wait is None or isinstance(outcome, dict):
                return outcome
            last = outcome
            if wait > self.retry.longest:
                return replace(last, reason=f"{last.reason}, and asks for {wait:.0f} s of patience")
            if repeat < self.retry.times:
                self.sleep(wait + self.draw(0.0, self.retry.bound(repeat)))
        if not self._reached:
            raise Stop(f"captioner.url={self.url}: there is no server to reach ({last.reason})")
        return replace(last, reason=f"{last.reason}, {self.retry.times + 1} times")

    def _try(self, body: Mapping[str, Any]) -> tuple[dict[str, Any] | Failed, float | None]:
        """One try: its outcome, and, where another may succeed, how many seconds the server asks to wait."""
        import httpx

        told: Mapping[str, Any] | None = None
        try:
            answer = self._answer(body)
            self._reached = True
            if isinstance(answer, Failed):
                return answer, None
            if answer.status == 200:
                outcome = _object(answer)
                told = None if isinstance(outcome, Failed) else self._told(outcome)
                return outcome, None
            return self._refused(answer), patience(answer)
        except (httpx.RequestError, TimeoutError) as error:
            self._reached |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            late = isinstance(error, httpx.TimeoutException | TimeoutError)
            said = f"no answer in {self._timeout:g} s" if late else f"{type(error).__name__}: {self.plain(error)}"
            return Failed(f"{self.url}: {said}", again=True), 0.0
        finally:
            self.meter.leave(told)

    def _answer(self, body: Mapping[str, Any]) -> Answer | Failed:
        loop, client = self._open()
        return asyncio.run_coroutine_threadsafe(self._post(client, body), loop).result()

    async def _post(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Answer | Failed:
        """One answer, read no further than it may be long. TimeoutError where all of it takes too long."""
        async with asyncio.timeout(self._timeout), client.stream("POST", "chat/completions", json=dict(body)) as answer:
            if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
                return Failed(f"{self.url}: the answer is compressed, which was not asked for", again=True)
            content = bytearray()
            async for part in answer.aiter_raw():
                content += part
                if len(content) > MOST.answer:
                    return Failed(f"{self.url}: the answer is longer than {MOST.answer // KIB} KiB", again=True)
            return Answer(answer.status_code, answer.headers, bytes(content))

    def _refused(self, answer: Answer) -> Failed:
        """What a status other than 200 means for this request; Stop if it would meet every other too."""
        status, said = answer.status, self.plain(_message(answer))
        if status in STOP:
            raise Stop(f"captioner.url={self.url}: {STOP[status]} ({status}: {said})")
        if 300 <= status < 400:
            raise Stop(f"captioner.url={self.url}: it sends requests elsewhere ({status}); give that url")
        return Failed(f"{self.url}: {status}: {said}", again=repeatable(status))

    def _told(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """An answer's count of tokens."""
        told = answer.get("usage")
        if isinstance(told, dict):
            return told
        if self.meter.price.budget is not None:
            raise Stop(f"captioner.price.budget: {self.url} does not tell its usage, so no budget can be held")
        return {}

    def plain(self, said: object) -> str:
        """One short line, without the key, which servers may repeat."""
        text = one_line(" ".join(str(said).split()))
        return (text.replace(self._key, "***") if self._key else text)[:200]

    def _open(self) -> tuple[asyncio.AbstractEventLoop, httpx.AsyncClient]:
        import httpx

        with self._opening:
            if self._client is None:
                client = httpx.AsyncClient(
                    base_url=self.url,
                    headers={"Accept-Encoding": "identity"}
                    | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                    timeout=httpx.Timeout(self._timeout),
                    limits=httpx.Limits(max_connections=self._connections),
                    follow_redirects=False,  # a key goes where it was meant to go
                )
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, daemon=True, name="captions").start()
                weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
                self._client = loop, client
            return self._client


def checked(url: str) -> str:
    """An interface's address, without a slash at its end; InputError for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"captioner.url={url}: it begins with http:// or https:// and a host's name")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(f"captioner.url: {parts.hostname} and a path only; keys go into captioner.key's variable")
    return url.rstrip("/")


def repeatable(status: int) -> bool:
    """Whether the same request may get another status later."""
    return status in AGAIN or status >= 500


def patience(answer: Answer) -> float | None:
    """Seconds to wait, at least, before another try: what Retry-After says, as seconds or as a date; None: no try."""
    if not repeatable(answer.status):
        return None
    said = answer.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _object(answer: Answer) -> dict[str, Any] | Failed:
    """The JSON object in an answer."""
    try:
        return parse_json(answer.content, "the answer", dict[str, Any])
    except InputError:
        return Failed("the answer is no JSON object", again=True)


def _message(answer: Answer) -> str:
    """What a server says of an error: OpenAI's layout, others', or the text itself."""
    try:
        content = parse_json(answer.content, "")
    except InputError:
        return answer.content.decode("utf-8", "replace") or responses.get(answer.status, "no reason")
    error = content.get("error", content.get("detail", content)) if isinstance(content, dict) else content
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _count(told: object) -> int:
    return min(told, TOKENS) if isinstance(told, int) and told > 0 else 0
