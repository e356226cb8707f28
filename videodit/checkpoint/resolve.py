"""From the name of a model to its files: what a user typed, and what a file says, which is trusted with less.

A user's word may be a bundled name, a name in conf/pretrained, a path or a hub id, whose files are downloaded. A file's
word only leads to what is on this machine already: bundled names, paths, and files in the hub's cache.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from videodit.checkpoint.parts import ROLES
from videodit.checkpoint.trees import tree_of
from videodit.checkpoint.weights import ENDINGS, PICKLES, open_weights
from videodit.config import assets_dir, conf_dir, read_yaml
from videodit.errors import InputError, did_you_mean
from videodit.printable import note

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
OURS = ("runs", "sweeps", "samples", "evaluation")  # folders that commands make: a name below one is no hub id


def locate(model: str) -> tuple[Path, str | None]:
    """The folder or file that a typed `model` means, and the name in conf/pretrained if it was one."""
    name = "/" not in model and "\\" not in model
    if name and (assets_dir() / model / "pipeline.json").is_file():
        return assets_dir() / model, None
    if found := _on_disk(Path(model), public=False):
        return found, None
    if name and (conf_dir() / "pretrained" / f"{model}.yaml").is_file():
        return files_of(model, model), model
    if found := _on_disk(Path(model), public=True):
        return found, None
    if Path(model).suffix in PICKLES:
        open_weights(Path(model))
    if is_hub_id(model):
        return from_hub(model, model), None
    ours = bundled()
    raise InputError(
        f"model={model}: neither a bundled model ({', '.join(ours) or 'there are none'}) nor a folder with a "
        f"pipeline.json, such as a run folder, nor public weights ({', '.join(families())}, a folder, a file, a hub id)"
        f"{did_you_mean(model, [*ours, *families()])}"
    )


def bundled() -> list[str]:
    """The names of the models that the package brings along."""
    return sorted(folder.parent.name for folder in assets_dir().glob("*/pipeline.json"))


def locate_recorded(model: str, file: Path, key: str) -> tuple[Path, str | None]:
    """The same for what `file` names; `key` is where a user can name another. Nothing is downloaded.

    A path that is not whole is one in the file's folder. What lies outside of it is told in a line.
    """
    name = "/" not in model and "\\" not in model
    if name and (assets_dir() / model / "pipeline.json").is_file():
        return assets_dir() / model, None
    path = file.parent / model
    if found := _on_disk(path, public=True):
        if file.parent.resolve() not in found.resolve().parents:
            note(__name__, f"{file} names {found}, which is read; {key}= names another")
        return found, None
    family = name and (conf_dir() / "pretrained" / f"{model}.yaml").is_file()
    if family:
        return files_of(model, model, cached=True), model
    if HUB_ID.fullmatch(model):
        return from_hub(model, model, cached=True), None
    raise InputError(f"{file} names {model}, which is not there; {key}= says where it is")


def _on_disk(path: Path, *, public: bool) -> Path | None:
    """A folder of ours or a run's, or public weights."""
    for folder in (path, path / "model"):
        if (folder / "pipeline.json").is_file():
            return folder
    return path if public and (path.suffix in ENDINGS or (path.is_dir() and _holds_weights(path))) else None


def is_hub_id(model: str) -> bool:
    """Whether a name that is not on disk may be a repository's on the hub: what looks like a path is none."""
    first = model.partition("/")[0]
    looks_like_a_path = first in OURS or Path(first).exists() or Path(model).exists()
    return HUB_ID.fullmatch(model) is not None and not looks_like_a_path


def lasting(model: str) -> str:
    """What `model` can be called from any working folder: the same name, or a whole path."""
    found, path = locate(model)[0].resolve(), Path(model).resolve()
    return str(path) if found == path or path in found.parents else model


def find_pipeline(model: str) -> Path:
    """The folder in our layout of a bundled name, a run folder or a folder of weights."""
    path, _ = locate(model)
    if not (path / "pipeline.json").is_file():
        raise InputError(f"model={model}: {path} is not in videodit's own layout; `videodit export` writes one that is")
    return path


def families() -> list[str]:
    """The names in conf/pretrained."""
    return sorted(path.stem for path in (conf_dir() / "pretrained").glob("*.yaml"))


def family_of(name: str) -> str | None:
    """The name in conf/pretrained that this is, or whose repository on the hub it is and no folder here."""
    known = families()
    if name in known or Path(name).exists() or not is_hub_id(name):
        return name if name in known else None
    return next((one for one in known if read_family(one).get("hub") == name), None)


def shared_parts(kind: str) -> list[dict[str, Any]]:
    """The numbers of the parts that several families share and whose names hold this word."""
    return [read_yaml(path) for path in sorted((conf_dir() / "pretrained" / "parts").glob(f"*{kind}*.yaml"))]


def read_family(name: str) -> dict[str, Any]:
    """The numbers of a name in conf/pretrained, its shared parts filled in."""
    family = read_yaml(conf_dir() / "pretrained" / f"{name}.yaml")
    for part in ROLES:
        if isinstance(family.get(part), str):
            family[part] = read_yaml(conf_dir() / "pretrained" / "parts" / f"{family[part]}.yaml")
    return family


def files_of(name: str, asked: str, *, cached: bool = False) -> Path:
    """The folder of a name in conf/pretrained: made here if its weights are random, else as `from_hub` has it."""
    numbers = read_family(name)
    if "random" in numbers:
        from videodit.checkpoint.random_weights import folder_of  # which asks here for numbers

        return folder_of(name, numbers)
    return from_hub(numbers["hub"], asked, cached=cached)


def from_hub(hub: str, asked: str, *, cached: bool = False) -> Path:
    """The folder of a hub repository: from the cache, else downloaded, with progress and resumed if it was cut off.

    `cached`: from nowhere but the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors", "*/*/*.json", "*/spiece.model"]
    try:
        return Path(snapshot_download(hub, allow_patterns=patterns, local_files_only=cached))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        why = "are not in the hub's cache, and a file's word downloads nothing" if cached else "cannot be had now"
        raise InputError(
            f"model={asked}: needs the files of https://huggingface.co/{hub}, which {why} ({first}); on a "
            f"machine with a network run `hf download {hub} --local-dir FOLDER`, then give model=FOLDER"
        ) from None


def _holds_weights(folder: Path) -> bool:
    """Whether a folder looks like public weights in any layout."""
    if (folder / "model_index.json").is_file() or tree_of(folder):
        return True
    return any(path.suffix in (*ENDINGS, *PICKLES) for path in folder.glob("*"))
