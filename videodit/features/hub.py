"""Open models of transformers from a folder or the hub, and tell their weights from others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from videodit.errors import Stop


def found(model: str, revision: str, key: str) -> tuple[str | None, str]:
    """The commit to load (None for a folder), and what tells these weights from others. key: of the config, in errors.

    model: a folder or a hub id. revision: a branch, tag or commit of a hub id; a folder has none.
    """
    folder = Path(model)
    if folder.is_dir():
        return None, _folder_digest(folder, key)
    commit = _hub_commit(model, revision, key)
    return commit, f"{model}@{commit}"


def opened(
    model: str, commit: str | None, *, network: str, processor: str, device: str, dtype: str, key: str
) -> tuple[Any, Any]:
    """A folder's or a hub id's network on a device and its processor; Stop, in one line, for what cannot be opened.

    network, processor: transformers' classes, such as AutoModel and AutoProcessor. device: "" is cuda where there is
    one. dtype: "" is float32 on a CPU, bfloat16 elsewhere. Weights are read from safetensors only, code from neither.
    """
    from videodit.nn.device import pick_device
    from videodit.printable import quiet_torchao

    quiet_torchao()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # other bars are shown
    device = str(pick_device(device))
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    how = {"trust_remote_code": False, **({"revision": commit} if commit else {})}
    try:
        looking = getattr(transformers, processor).from_pretrained(model, **how)
        kind = getattr(transformers, network)
        found = kind.from_pretrained(model, use_safetensors=True, dtype=getattr(torch, dtype), **how).to(device)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        lacking = '; pip install "videodit[captions]"' if "torchvision" in str(error).lower() else ""
        raise Stop(f"{key}={model}: it cannot be opened ({first_line(error)}){lacking}") from None
    return found.eval().requires_grad_(False), looking


def first_line(error: BaseException) -> str:
    """What an error says, in one line of 300 characters at most."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__)[:300]


def _folder_digest(folder: Path, key: str) -> str:
    from videodit.checkpoint.weights import fingerprint

    kinds = (".json", ".safetensors", ".jinja", ".txt", ".model")
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    if not any(path.name == "config.json" for path in files):
        raise Stop(f"{key}={folder}: no config.json is there; give a folder that transformers saved")
    told = str([(path.name, fingerprint(path)) for path in files])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _hub_commit(model: str, revision: str, key: str) -> str:
    """The commit that a revision means now, asked of the hub or, without a network, of its cache."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    try:
        path = cached_file(model, "config.json", revision=revision)
        commit = extract_commit_hash(path, None)
    except (OSError, ValueError) as error:
        raise Stop(
            f"{key}={model}: neither a folder nor a hub id whose files can be had now ({first_line(error)}); "
            f"with a network, run `hf download {model} --local-dir FOLDER`, then give {key}=FOLDER"
        ) from None
    if commit is None:
        raise Stop(f"{key}={model}: the hub told no commit for revision {revision}")
    return commit
