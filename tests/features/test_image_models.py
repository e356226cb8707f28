"""Learned looks: image models of transformers, tiny and random, as embeddings and scores, and within the command."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ingest import tiny_models
from tests.ingest.commands import folder, here, rows
from videodit.errors import InputError
from videodit.features.image_models import ImageClassifier, ImageEmbedding

BRIEF = ["vae=", "report=false", "shape.frames=5", "shape.shortest=1", "heldout_share=0.3", "duplicates.distance=0"]


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """Noise in large blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return list(np.kron(blocks, np.ones((1, 8, 8, 1), np.uint8)))


@pytest.mark.parametrize("save", [tiny_models.save_clip, tiny_models.save_dino])
def test_an_embedding_is_the_models_own(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    """The mean of the directions that transformers gives for each frame by itself."""
    import transformers

    where, shown = str(save(tmp_path / "model")), frames(3)
    found = np.array(ImageEmbedding(model=where)(shown))
    network = transformers.AutoModel.from_pretrained(where)
    processor = transformers.AutoImageProcessor.from_pretrained(where)
    alone = []
    for image in shown:
        inputs = processor(images=[Image.fromarray(image)], return_tensors="pt")
        with torch.no_grad():
            if isinstance(network, transformers.CLIPModel):
                vision = network.vision_model(**inputs).pooler_output
                alone.append(network.visual_projection(vision)[0].numpy())
            else:
                alone.append(network(**inputs).pooler_output[0].numpy())
    wanted = np.mean([each / np.linalg.norm(each) for each in alone], axis=0)
    assert np.allclose(found, wanted / np.linalg.norm(wanted), atol=2e-4)
    other = np.array(ImageEmbedding(model=where)(frames(3, seed=1)))
    assert found @ other < 0.9999


def test_a_look_is_told_by_its_weights_and_may_be_sent_elsewhere(tmp_path: Path) -> None:
    one, same, other = (tiny_models.save_clip(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    looks = [ImageEmbedding(model=str(where)) for where in (one, same, other)]
    assert repr(looks[0]) == repr(looks[1]) != repr(looks[2]) and str(tmp_path) not in repr(looks[0])
    assert pickle.loads(pickle.dumps(looks[0]))(frames(2)) == looks[0](frames(2)) != looks[2](frames(2))


def test_a_score_is_the_probability_of_its_label(tmp_path: Path) -> None:
    where = str(tiny_models.save_classifier(tmp_path / "model", ["fine", "poor", "bad"]))
    scores = [ImageClassifier(model=where, name="x", label=label)(frames(4)) for label in ("fine", "poor", "bad")]
    assert sum(scores) == pytest.approx(1, abs=1e-5) and 0 < min(scores) and len(set(scores)) == 3
    with pytest.raises(InputError, match=r"knows no label good, but bad, fine, poor$"):
        ImageClassifier(model=where, name="x", label="good")(frames(1))


def test_what_is_no_model_is_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    videos = folder(tmp_path / "videos", 1)
    assert here(videos, tmp_path / "set", *BRIEF, "embedder=image", f"embedder.model={tmp_path / 'empty'}") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("videodit: error: ") and f"embedder.model={tmp_path / 'empty'}: no config.json" in error
    assert not (tmp_path / "set").exists()


def test_the_command_scores_selects_and_deduplicates_with_models(tmp_path: Path) -> None:
    """With a cosine of -1 everything is alike; with 1, nothing that differs. A score can be selected by."""
    videos, out = folder(tmp_path / "videos", 4), tmp_path / "set"
    judge = tiny_models.save_classifier(tmp_path / "judge", ["a", "b"])
    eye = ["embedder=image", f"embedder.model={tiny_models.save_clip(tmp_path / 'eye')}"]
    scorer = f"{{_target_: videodit.features.image_models.ImageClassifier, name: b, model: {judge}, label: b}}"
    scored = [*BRIEF, f"measure.scorers=[{scorer}]"]
    assert here(videos, out, *scored, *eye, "duplicates.cosine=1") == 0
    found = {row["source"]: row["score_b"] for row in rows(out)}
    assert len(found) == 4 and all(0 < score < 1 for score in found.values())
    assert here(videos, out, *scored, *eye, "duplicates.cosine=-1") == 0
    assert len({row["source"] for row in rows(out)}) == 1
    reasons = [row["reason"] for row in rows(out, "dropped")]
    assert reasons == ["a near-duplicate of a better one"] * 3
    middle = sorted(found.values())[1]
    assert here(videos, out, *scored, f"+select.score_b=[{middle}, null]") == 0
    assert {row["source"] for row in rows(out)} == {source for source, score in found.items() if score >= middle}
