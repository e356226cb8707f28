"""videodit: text-to-video diffusion transformers, trained, run and measured.

    import videodit
    pipe = videodit.load()
    pipe("a large red ball rolls right on a gray ground", seed=1).save("ball.mp4")

Importing the package imports no torch: the public names are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = (
    *((name, "videodit.generate") for name in ("load", "Pipe", "Video", "Request")),
    ("InputError", "videodit.errors"),
)

__all__ = ["InputError", "Pipe", "Request", "Video", "__version__", "load"]  # noqa: F822 - the lazy names


def __getattr__(name: str) -> Any:
    """Fetch a public name from the module that defines it; AttributeError for any other name."""
    for public, module in _HOMES:
        if name == public:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'videodit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(name for name, _ in _HOMES)])
