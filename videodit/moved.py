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
        moved = {key: MOVED[name] for key, name in content.items() if key == "_target_" and name in MOVED}
        return {key: renamed(value) for key, value in content.items()} | moved
    return [renamed(value) for value in content] if isinstance(content, list) else content
