"""Names that objects had in earlier versions: YAMLs of users and configs of runs may still hold them."""

from __future__ import annotations

from typing import Any

MOVED = {
    "videodit.data.toy.ToyWorld": "videodit.toy.world.ToyWorld",
    "videodit.ingest.looks.ImageClassifier": "videodit.features.image_models.ImageClassifier",
    "videodit.ingest.looks.ImageEmbedding": "videodit.features.image_models.ImageEmbedding",
    "videodit.ingest.measure.NoEmbedding": "videodit.features.measures.NoEmbedding",
}


def renamed(content: Any) -> Any:
    """The plain values of an earlier version's config with the names of this one."""
    if isinstance(content, dict):
        name = content.get("_target_")
        moved = {"_target_": MOVED[name]} if isinstance(name, str) and name in MOVED else {}
        return {key: renamed(value) for key, value in content.items()} | moved
    return [renamed(value) for value in content] if isinstance(content, list) else content
