"""Random image-text networks of a few thousand parameters, saved as transformers saves real ones."""

from __future__ import annotations

from pathlib import Path

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


def tokenizer(text: str = ""):
    """A word-level tokenizer of WORDS and `text`, learned here."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator([" ".join(WORDS), text], trainers.WordLevelTrainer(special_tokens=MARKS))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, extra_special_tokens={"image_token": "<image>"}, chat_template=None
    )


def save_llava(folder: Path, seed: int = 0) -> Path:
    """CLIP's vision, 16x16 in patches of 8, and Llama's text, of two layers each; it says WORDS and nothing else."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=32),
        text_config=LlamaConfig(**sizes, vocab_size=len(words), eos_token_id=2, bos_token_id=1, pad_token_id=3),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(seed)
    network = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)  # enough for answers to depend on the frames
        head = network.get_output_embeddings().weight
        head[[i for i in range(len(words)) if words.convert_ids_to_tokens(i) not in WORDS]] = 0
    network.generation_config.eos_token_id = 2
    network.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
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
