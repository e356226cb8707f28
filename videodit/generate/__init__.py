"""From prompts to videos. Start reading at `pipe.py`.

    request   the one schema of what can be asked for        pipe      the screen: encode, denoise, decode, finish
    model     a loaded model: sizes, noise, times, texts     velocity  its denoisers as functions of (x, t)
    layout    how requests share a pack                      video     a denoised and a finished video
    record    how a video was made                           recipe    a record, made again
    jobs      many requests: packs, progress, cancelling     waiting   latents on disk until they are decoded
    admission whether it fits into the memory, and how

Importing the package imports no torch: the public names are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = (
    *(("Pipe", "pipe"), ("load", "pipe"), ("Options", "model"), ("Video", "video"), ("Denoised", "video")),
    ("Request", "request"),
)

__all__ = ["Denoised", "Options", "Pipe", "Request", "Video", "load"]  # noqa: F822 - the lazy names


def __getattr__(name: str) -> Any:
    """Fetch a public name from the module that defines it; AttributeError for any other name."""
    for public, module in _HOMES:
        if name == public:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(name for name, _ in _HOMES)])
