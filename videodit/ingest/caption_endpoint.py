"""Captions by a server that speaks OpenAI's chat completions: a vLLM on this machine, or a company's."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from videodit.config import secret
from videodit.errors import InputError, Stop
from videodit.ingest.caption import Captions, Failed, Prompts, Request, digest, finished, pictures
from videodit.ingest.caption_clean import clean
from videodit.ingest.caption_http import Connection, Meter, Price, Retry
from videodit.printable import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 85  # of JPEG


class Endpoint:
    """A server's captions: two requests a clip, the second without frames.

    Args:
        url: of the interface; `/chat/completions` is added.
        model: as the server calls it.
        key: the name of the environment variable that holds the key; "" sends none.
        prompts: the questions.
        edge: frames are shrunk to sides of so many pixels, and sent as JPEG.
        limit: the name of the field for the longest answer, in tokens.
        options: more fields of every request, such as temperature.
        concurrency: requests at once.
        timeout: seconds that a request may take, from connecting to the answer's last byte.
        retry: of requests that may pass later.
        price: of tokens, and the budget: clips for which it has no room are Failed, and may be tried again.
    """

    looks = True

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key: str,
        prompts: Prompts,
        edge: int,
        limit: str,
        options: Mapping[str, Any],
        concurrency: int,
        timeout: float,
        retry: Retry,
        price: Price,
    ) -> None:
        for name, value in (("edge", edge), ("concurrency", concurrency), ("timeout", timeout)):
            if value <= 0:
                raise InputError(f"captioner.{name}={value}: it is above 0")
        if taken := {"model", "messages", "stream", "n", limit} & set(options):
            raise InputError(f"captioner.options.{min(taken)}: this field is not free")
        self.model, self.prompts, self.edge, self.limit = model, prompts, edge, limit
        self.options, self.concurrency = dict(options), concurrency
        self.connection = Connection(
            url=url,
            key=secret(key) if key else "",
            connections=concurrency,
            timeout=timeout,
            retry=retry,
            meter=Meter(price),
        )

    @property
    def usage(self) -> dict[str, float]:
        """What was used since this object was made: see Usage."""
        return asdict(self.connection.meter.usage)

    @property
    def fingerprint(self) -> str:
        """Of the model's name, the prompts and the parameters; not of the address, which may change."""
        return digest(self.model, self.prompts.parts, self.edge, sorted(self.options.items()))

    @property
    def made_by(self) -> str:
        """The model's name and the fingerprint."""
        return f"{self.model}+{self.fingerprint}"

    def __call__(self, requests: Sequence[Request]) -> list[Captions | Failed]:
        """One answer for each request. Stop where the server would refuse every one."""
        self.connection.stopping.clear()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="caption")
        try:
            return list(pool.map(self._one, requests))
        except BaseException:  # also the user's interrupt: requests under way end, none begins
            self.connection.stopping.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, request: Request) -> Captions | Failed:
        """Both captions of one clip, in a thread of its own. What would meet every other clip too stops them."""
        try:
            return self._both(request)
        except Stop:
            self.connection.stopping.set()
            raise

    def _both(self, request: Request) -> Captions | Failed:
        images = pictures(request, self.edge)
        if isinstance(images, Failed):
            return images
        shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        question = {"type": "text", "text": self.prompts.ask_long(request)}
        long = self._ask([*shown, question], self.prompts.tokens_long)
        if isinstance(long, Failed):
            return long
        short = self._ask(self.prompts.ask_short(long), self.prompts.tokens_short)
        return finished(request, long, short, self.made_by)

    def _ask(self, content: str | list[dict[str, Any]], tokens: int) -> str | Failed:
        """The caption in the answer to one message."""
        messages = [{"role": "user", "content": content}]
        answer = self.connection.ask({**self.options, "model": self.model, "messages": messages, self.limit: tokens})
        return answer if isinstance(answer, Failed) else read(answer)


def read(answer: Mapping[str, Any]) -> str | Failed:
    """The caption in a chat completion; Failed for another object, a refusal or nothing."""
    try:
        choice = answer["choices"][0]
        message, why = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Failed("the answer is no chat completion", again=True)
    if refusal or why == "content_filter":
        return Failed(f"the model refused: {one_line(' '.join(str(refusal or why).split())[:80])}", again=False)
    if isinstance(content, list):  # as parts, of which some are text
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        return Failed("the answer is no chat completion", again=True)
    return clean(content or "", cut=why == "length")


def data_url(image: Image) -> str:
    """An image as JPEG in a `data:` address."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
