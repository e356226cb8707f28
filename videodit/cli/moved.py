"""Names that objects had in earlier versions: YAMLs of users and configs of runs may still hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from videodit.cli.values import dotted
from videodit.printable import say

if TYPE_CHECKING:
    from omegaconf import DictConfig

MOVED = {
    "videodit.data.toy.ToyWorld": "videodit.toy.world.ToyWorld",
    "videodit.ingest.looks.ImageClassifier": "videodit.features.image_models.ImageClassifier",
    "videodit.ingest.looks.ImageEmbedding": "videodit.features.image_models.ImageEmbedding",
    "videodit.ingest.measure.NoEmbedding": "videodit.features.measures.NoEmbedding",
}


def with_new_names(cfg: DictConfig) -> DictConfig:
    """Replace the old names in a config's `_target_`s, and say so in one line for each."""
    from omegaconf import OmegaConf

    every = dotted(OmegaConf.to_container(cfg, resolve=False), "")
    found = {key: str(name) for key, name in every if key.endswith("_target_") and str(name) in MOVED}
    for key, name in found.items():
        OmegaConf.update(cfg, key, MOVED[name])
    say(*(f"deprecated: {name} is now {MOVED[name]}; write that" for name in sorted(set(found.values()))))
    return cfg


def renamed(content: Any) -> Any:
    """The plain values of an earlier version's config with the names of this one."""
    if isinstance(content, dict):
        moved = {key: MOVED[name] for key, name in content.items() if key == "_target_" and name in MOVED}
        return {key: renamed(value) for key, value in content.items()} | moved
    return [renamed(value) for value in content] if isinstance(content, list) else content
