"""Where a model's files lie beside each other: in one folder, or in ComfyUI's tree, with a folder for each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

NETWORKS = ("diffusion_models", "unet", "checkpoints")  # of transformers, or of whole models
OTHERS = ("text_encoders", "clip", "vae")
DEEP = 3  # folders below one of these in which a file may lie


def tree_of(path: Path) -> Path | None:
    """The folder of these folders, where a file lies in one of them, or a folder has them or has `models` with them."""
    if path.is_dir():
        roots = [root for root in (path, path / "models") if any((root / name).is_dir() for name in NETWORKS)]
        return roots[0] if roots else None
    return next((folder.parent for folder in list(path.parents)[:DEEP] if folder.name in NETWORKS), None)


def folders_of(path: Path) -> list[Path]:
    """The folders in which the parts of a model may lie, of which one file or a folder was given."""
    folder, root = path if path.is_dir() else path.parent, tree_of(path)
    if root is None:
        return list(_and_below(folder))
    places = [root / name for name in (*NETWORKS, *OTHERS)] if path.is_dir() else [root / name for name in OTHERS]
    own = [] if path.is_dir() else [folder]
    return own + [place for one in places if one.is_dir() for place in _and_below(one)]


def _and_below(folder: Path) -> Iterator[Path]:
    yield folder
    yield from sorted(path for path in folder.iterdir() if path.is_dir())
