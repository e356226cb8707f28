"""Random image-text networks of a few thousand parameters, saved as transformers saves real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from videodit.ingest.caption import Prompts, Request

# Every word ends a sentence, so that an answer that is cut loses no word of it.
WORDS = [f"{word}." for word in "Ball Box Car Dog Door Grass Hand House Lamp Moon Rain Road Sea Sky Tree Wall".split()]
MARKS = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "USER:", "ASSISTANT:"]
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer() -> Any:
    """A word-level tokenizer of WORDS, learned here."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator([" ".join(WORDS)], trainers.WordLevelTrainer(special_tokens=MARKS))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, extra_special_tokens={"image_token": "<image>"})


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_llava(folder: Path, seed: int = 0) -> Path:
    """CLIP's vision, 16x16 in patches of 8, and Llama's text: every frame is cropped to the same size."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZES, image_size=16, patch_size=8, projection_dim=32),
        text_config=LlamaConfig(**SIZES, vocab_size=len(words), eos_token_id=2, bos_token_id=1, pad_token_id=3),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return _save(folder, LlavaForConditionalGeneration, config, processor, seed)


def save_idefics(folder: Path, seed: int = 0) -> Path:
    """Idefics3 (SmolVLM's network): frames of different sizes are cut into different numbers of tiles."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers import Idefics3ImageProcessorPil as Images
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    words = tokenizer()
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    extra = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    words.add_special_tokens({"extra_special_tokens": extra})
    text = LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=len(words), eos_token_id=2, pad_token_id=3)
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(**SIZES, image_size=32, patch_size=8),
        text_config=text,
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=3,
    )
    images = Images(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = Idefics3Processor(image_processor=images, tokenizer=words, image_seq_len=4, chat_template=TEMPLATE)
    return _save(folder, Idefics3ForConditionalGeneration, config, processor, seed)


def _save(folder: Path, kind: Any, config: Any, processor: Any, seed: int) -> Path:
    """Weights large enough for answers to depend on the frames; it says WORDS and ends, nothing else."""
    torch.manual_seed(seed)
    network = kind(config)
    words = processor.tokenizer
    mute = [i for i in range(len(words)) if words.convert_ids_to_tokens(i) not in WORDS]
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
        network.get_output_embeddings().weight[mute] = 0
    # What a published model may ask for, and a captioner does not do.
    network.generation_config.update(eos_token_id=2, do_sample=True, temperature=2.0, top_k=3)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def prompts(long: int = 12, short: int = 3) -> Prompts:
    """Prompts in WORDS, with limits in tokens."""
    return Prompts(
        long="Tree. {frames} {seconds}",
        given="Sea. {given}",
        short="Road. {long}",
        tokens_long=long,
        tokens_short=short,
    )


def request(seed: int, frames: int = 3, given: str = "", size: tuple[int, int] = (20, 30)) -> Request:
    """A clip of noise."""
    random = np.random.default_rng(seed)
    return Request(
        frames=[random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(frames)], seconds=2.0, given=given
    )


def save_clip(folder: Path, seed: int = 0) -> Path:
    """CLIP, 16x16 in patches of 8."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config = CLIPConfig(
        vision_config={**SIZES, "image_size": 16, "patch_size": 8}, text_config={**SIZES, "vocab_size": 32},
        projection_dim=16,
    )  # fmt: skip
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return _save_looking(folder, CLIPModel, config, images, seed)


def save_dino(folder: Path, seed: int = 0) -> Path:
    """DINOv2, 28x28 in patches of 14."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
    images = BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return _save_looking(folder, Dinov2Model, Dinov2Config(**sizes, image_size=28, patch_size=14), images, seed)


def save_classifier(folder: Path, labels: list[str], seed: int = 0) -> Path:
    """A ViT that tells classes, 16x16 in patches of 8."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(**SIZES, image_size=16, patch_size=8, id2label=dict(enumerate(labels)))
    images = ViTImageProcessorPil(size={"height": 16, "width": 16})
    return _save_looking(folder, ViTForImageClassification, config, images, seed)


def _save_looking(folder: Path, kind: Any, config: Any, images: Any, seed: int) -> Path:
    """Weights large enough for what is seen to matter."""
    torch.manual_seed(seed)
    network = kind(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    network.save_pretrained(folder)
    images.save_pretrained(folder)
    return folder
