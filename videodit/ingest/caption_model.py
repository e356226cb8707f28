"""Captions by a model on this machine: any image-text-to-text network of transformers with a chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from videodit.errors import InputError, Stop
from videodit.features.hub import first_line, found, opened
from videodit.ingest.caption import Captions, Failed, Prompts, Request, digest, finished, pictures
from videodit.ingest.caption_clean import clean

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

DTYPES = ("float32", "bfloat16", "float16")

Chat = tuple[list["Image"], str, int]  # the images of one message, its text, the seed of the answer


class ImageText:
    """A model's captions, of which none depends on those of other clips.

    Args:
        model: a folder or a hub id. Weights are read from safetensors only, and code from neither.
        revision: a branch, tag or commit of a hub id; a folder has none.
        device: cpu or cuda; "" is cuda where there is one.
        dtype: float32, bfloat16 or float16; "" is float32 on a CPU, bfloat16 elsewhere.
        together: clips in one pass, at most. Passes that fail are halved, down to the clip that is at fault.
        edge: frames are shrunk to sides of so many pixels; the model's own processor does the rest.
        prompts: the questions.
        temperature: 0 takes the likeliest token. Above, tokens are drawn by a function of the seed and the clip.
        seed: of those draws.
    """

    looks = True
    usage: Mapping[str, float] = MappingProxyType({})

    def __init__(
        self,
        *,
        model: str,
        revision: str,
        device: str,
        dtype: str,
        together: int,
        edge: int,
        prompts: Prompts,
        temperature: float,
        seed: int,
    ) -> None:
        if dtype and dtype not in DTYPES:
            raise InputError(f"captioner.dtype={dtype}: it is one of {', '.join(DTYPES)}")
        for name, value in (("together", together), ("edge", edge)):
            if value < 1:
                raise InputError(f"captioner.{name}={value}: it is 1 or more")
        if temperature < 0:
            raise InputError(f"captioner.temperature={temperature}: it is 0 or more")
        self.model, self.revision, self.device, self.dtype = model, revision, device, dtype
        self.together, self.edge, self.prompts = together, edge, prompts
        self.temperature, self.seed = temperature, seed

    def __call__(self, requests: Sequence[Request]) -> list[Captions | Failed]:
        """One answer for each request."""
        captions: list[Captions | Failed] = []
        for start in range(0, len(requests), self.together):
            captions += self._some(requests[start : start + self.together])
        return captions

    @cached_property
    def fingerprint(self) -> str:
        """Of the model's files (or their commit on the hub), the prompts and the parameters."""
        sampling = (self.temperature, self.seed) if self.temperature else ()
        return digest(self._source[1], self.prompts.parts, self.edge, self.dtype, sampling)

    @property
    def made_by(self) -> str:
        """The model's name and the fingerprint."""
        return f"{Path(self.model).name if Path(self.model).is_dir() else self.model}+{self.fingerprint}"

    def _some(self, requests: Sequence[Request]) -> list[Captions | Failed]:
        """As many requests as pass together: the long captions first, then the short ones."""
        seeds = [self._seed(request) for request in requests]
        images = [pictures(request, self.edge) for request in requests]
        long = self._ask_those(
            [
                shown if isinstance(shown, Failed) else (shown, self.prompts.ask_long(request), seed)
                for request, shown, seed in zip(requests, images, seeds, strict=True)
            ],
            self.prompts.tokens_long,
        )
        short = self._ask_those(
            [
                text if isinstance(text, Failed) else ([], self.prompts.ask_short(text), seed + 1)
                for text, seed in zip(long, seeds, strict=True)
            ],
            self.prompts.tokens_short,
        )
        return [finished(*answers, self.made_by) for answers in zip(requests, long, short, strict=True)]

    def _ask_those(self, chats: Sequence[Chat | Failed], tokens: int) -> list[str | Failed]:
        """The answers to those that have not failed before."""
        answers = iter(self._ask([chat for chat in chats if not isinstance(chat, Failed)], tokens))
        return [chat if isinstance(chat, Failed) else next(answers) for chat in chats]

    def _seed(self, request: Request) -> int:
        """A function of the clip, so that a caption depends on no other clip; below 2**62."""
        if not self.temperature:
            return 0
        frames = [hashlib.sha256(frame.tobytes()).hexdigest() for frame in request.frames]
        return int(digest(self.seed, frames, request.seconds, request.given), 16) >> 2

    def _ask(self, chats: Sequence[Chat], tokens: int) -> list[str | Failed]:
        """The cleaned answers. What raises together is tried in halves: one clip's fault, or too little memory."""
        if not chats:
            return []
        network, processor = self._opened
        try:
            answers = generate(network, processor, chats, tokens, self.temperature)
            return [clean(text, cut=cut) for text, cut in answers]
        except Exception as error:  # processors and networks raise whatever they like
            reason = f"{type(error).__name__}: {first_line(error)}"
            again = isinstance(error, RuntimeError | MemoryError | OSError)  # the machine's state, not the clip
        if len(chats) == 1:  # outside the handler, whose traceback would keep the pass's tensors alive
            return [Failed(reason, again)]
        middle = len(chats) // 2
        return [*self._ask(chats[:middle], tokens), *self._ask(chats[middle:], tokens)]

    @cached_property
    def _source(self) -> tuple[str | None, str]:
        return found(self.model, self.revision, "captioner.model")

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        """The network and its processor, opened when the first clip comes."""
        return open_model(self.model, self._source[0], self.device, self.dtype)


def open_model(model: str, commit: str | None, device: str, dtype: str) -> tuple[Any, Any]:
    """A folder's or a hub id's network and processor: see `hub.opened`."""
    how = {"network": "AutoModelForImageTextToText", "processor": "AutoProcessor", "key": "captioner.model"}
    network, processor = opened(model, commit, device=device, dtype=dtype, **how)
    if getattr(processor, "tokenizer", None) is None or not getattr(processor, "chat_template", None):
        raise Stop(f"captioner.model={model}: it has no chat template; a model that answers questions has one")
    processor.tokenizer.padding_side = "left"  # so that all answers begin at the same place
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):  # of draws, which are ours or none
        setattr(network.generation_config, name, None)
    return network, processor


def generate(
    network: Any, processor: Any, chats: Sequence[Chat], tokens: int, temperature: float
) -> list[tuple[str, bool]]:
    """The answers to chats of one message each, and whether each was cut at this number of tokens."""
    import torch

    marks = _marks(processor)
    messages = [[{"role": "user", "content": _content(images, text, marks)}] for images, text, _ in chats]
    inputs = processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"text_kwargs": {"padding": True, "padding_side": "left"}},
    ).to(network.device, dtype=network.dtype)
    draws = [Draws(temperature, [seed for *_, seed in chats])] if temperature else []
    with torch.inference_mode():
        ids = network.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=draws,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
    new = ids[:, inputs["input_ids"].shape[1] :].cpu()
    ends = network.generation_config.eos_token_id
    ended = torch.isin(new, torch.tensor([] if ends is None else ends)).any(1).tolist()
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [(text, not end) for text, end in zip(texts, ended, strict=True)]


class Draws:
    """Draws each chat's tokens from its own generator: the largest of logits / temperature + Gumbel noise is a draw
    from their softmax (Gumbel 1954; Maddison et al. 2014), and no chat's draws depend on what passes with it."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        import torch

        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits (B,V) -> float32 (B,V), of which the largest is taken."""
        import torch

        width = scores.shape[1]
        waits = torch.stack([torch.empty(width).exponential_(generator=one) for one in self.generators])
        return scores.float() / self.temperature - waits.log().to(scores.device)


def _content(images: Sequence[Image], text: str, marks: Sequence[str]) -> list[dict[str, Any]]:
    """One message: its images, then its text, in which what the tokenizer would take for a mark is taken out."""
    for mark in marks:
        text = text.replace(mark, " ")
    return [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]


def _marks(processor: Any) -> list[str]:
    """Texts that stand for one token with a meaning, such as an image: no caption may write them. Longest first."""
    tokens = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
    extra = getattr(processor, "image_token", None)
    marks = {*tokens, *([extra] if isinstance(extra, str) else [])}
    return sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
