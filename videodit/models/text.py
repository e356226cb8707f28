"""Text encoders: prompts -> tokens -> states (S,E), the prompts laid end to end, padding never computed.

    B prompts, S tokens in all, E text width

The network is transformers' own T5 or umT5 encoder. Prompts pass side by side as one sequence under a block-diagonal
mask: relative position biases depend on distances only, so each prompt gets the states it would get alone. That
attention is dense, so many prompts pass as several sequences.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.models.interfaces import TEXT_ENCODER, Stacked
from videodit.models.pack import Ragged
from videodit.printable import quiet_torchao
from videodit.untrusted import MOST, read_text

TOGETHER = 128  # tokens of the prompts that pass as one sequence: a dense mask costs their square
LONGEST = 512  # tokens of a prompt, as public models have it: an encoder's work grows with the square
# Thai, Lao, Tibetan, Burmese, Khmer, kana and ideographs: scripts written without blanks, of which each letter is a
# word to a word-level tokenizer. One character class, as Python and `tokenizers` both read it.
BLANKLESS = (
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
LETTER = BLANKLESS + r"\p{M}*"  # with its marks, as `tokenizers` reads it
AWAY = 4.0  # what a new head's logits lack on the side that it does not look to


class SmallT5(Stacked):
    """transformers' T5EncoderModel, or UMT5EncoderModel (one relative bias a layer), of any size.

    A new one's position biases fall with the distance, in half of its heads to words before and in the others to words
    after (in the manner of ALiBi, arXiv 2108.12409). From T5's own start, near nothing, they take thousands of steps to
    grow, and until then a caption is a bag of words: "a red cube and a blue ball" is "a blue cube and a red ball".

    Args:
        vocabulary: number of tokens.
        dim, layers, heads, head_dim, ffn: the usual sizes; E = dim.
        bias_per_layer: umT5's position biases instead of T5's shared one.
    """

    ROLE = TEXT_ENCODER
    STACKS = {"encoder.block": "layers"}

    def __init__(
        self, *, vocabulary: int, dim: int, layers: int, heads: int, head_dim: int, ffn: int, bias_per_layer: bool
    ) -> None:
        super().__init__()
        quiet_torchao()
        import transformers

        kind = "UMT5" if bias_per_layer else "T5"
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=vocabulary,
            d_model=dim,
            num_layers=layers,
            num_heads=heads,
            d_kv=head_dim,
            d_ff=ffn,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            use_cache=False,
            is_encoder_decoder=False,
        )
        self.dim = dim
        self.encoder = getattr(transformers, f"{kind}EncoderModel")(config).encoder
        for block in self.encoder.block:
            attention = block.layer[0].SelfAttention
            if attention.has_relative_attention_bias:
                _look_nearby(attention)

    def forward(self, ids: Tensor, lengths: tuple[int, ...]) -> Ragged:
        """Token ids (S,) of B prompts with these lengths -> their states."""
        groups = list(together(lengths))
        parts = ids.split([sum(group) for group in groups])
        states = torch.cat([self._together(part, group) for part, group in zip(parts, groups, strict=True)])
        return Ragged(states, lengths)

    def _together(self, ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """Token ids (S,) -> states (S,E), in one sequence."""
        owner = torch.repeat_interleave(torch.tensor(lengths, device=ids.device), output_size=len(ids))
        same = owner[:, None] == owner[None, :]
        kind = self.encoder.embed_tokens.weight.dtype  # the queries': GPUs' kernels take no other
        mask = torch.zeros(same.shape, device=ids.device, dtype=kind).masked_fill_(~same, torch.finfo(kind).min)
        return self.encoder(input_ids=ids[None], attention_mask=mask[None, None]).last_hidden_state[0]


@torch.no_grad()
def _look_nearby(attention: nn.Module) -> None:
    """Set the position biases of a T5Attention or UMT5Attention: rows for buckets of distances, columns for heads."""
    from transformers.models.t5.modeling_t5 import T5Attention

    farthest, heads = attention.relative_attention_max_distance, attention.n_heads
    offsets = torch.arange(-farthest, farthest + 1, device="cpu")  # of the key from the query
    buckets = T5Attention._relative_position_bucket(
        offsets, num_buckets=attention.relative_attention_num_buckets, max_distance=farthest
    )
    head = torch.arange(heads, device="cpu")
    slopes, forwards = 0.5 ** (4.0 * (head // 2) / max(1, heads // 2)), head % 2 == 1
    away = (offsets > 0)[:, None] != forwards
    values = -slopes * offsets.abs()[:, None] - AWAY * (away & (offsets != 0)[:, None])
    weight = torch.zeros(attention.relative_attention_bias.weight.shape, device="cpu")
    for i in offsets.abs().argsort(descending=True).tolist():  # of a bucket's offsets the nearest counts
        weight[buckets[i]] = values[i]
    attention.relative_attention_bias.weight.copy_(weight)


def together(lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Neighbouring prompts of TOGETHER tokens or less; longer prompts go alone."""
    group: tuple[int, ...] = ()
    for length in lengths:
        if group and sum(group) + length > TOGETHER:
            yield group
            group = ()
        group = (*group, length)
    yield group


class Tokenizer:
    """A `tokenizers` file behind one call: prompts -> ids and lengths, each prompt closed by `</s>`.

    `length`: prompts are cut to so many tokens; 0: to LONGEST. `vocabulary`: tokens that the text encoder has; 0: any.
    `text`: what the file holds, if not what is there. `mends`: see `clean`.
    """

    def __init__(
        self, *, path: Path, length: int = 0, vocabulary: int = 0, text: str = "", mends: bool = False
    ) -> None:
        from tokenizers import Tokenizer as Backend

        text = text or read_text(path, MOST.tokenizer)
        with _refusals(path):
            self._backend = Backend.from_str(text)
            self._backend.no_padding()
            self._backend.enable_truncation(length or LONGEST)
        self.path, self.vocabulary, self.mends = path, vocabulary, mends
        self.unknown = self._backend.token_to_id("<unk>")

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """B prompts -> ids (S,) and lengths. Raises InputError for a token that the text encoder does not have."""
        encoded = [encoding.ids for encoding in self._encoded([clean(prompt, self.mends) for prompt in prompts])]
        ids = [i for one in encoded for i in one]
        if self.vocabulary and (largest := max(ids, default=0)) >= self.vocabulary:
            raise InputError(f"{self.path}: it has a token {largest}, the text encoder only {self.vocabulary} tokens")
        if not all(encoded):
            raise InputError(f"{self.path}: it makes no token of a prompt")
        return torch.tensor(ids), tuple(len(one) for one in encoded)

    def __len__(self) -> int:
        return self._backend.get_vocab_size()

    def words(self, prompt: str) -> list[tuple[str, bool]]:
        """The words of a prompt, or their pieces, as far as it is read; and whether there is a token for each."""
        prompt = clean(prompt, self.mends)
        [encoding] = self._encoded([prompt])
        spans = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True)
        return [(prompt[start:end], i != self.unknown) for i, (start, end), special in spans if not special]

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the tokenizer has no token for."""
        return [word for word, known in self.words(prompt) if not known]

    def unread(self, prompt: str) -> str:
        """The end of a prompt that is too long; usually nothing."""
        prompt = clean(prompt, self.mends)
        [encoding] = self._encoded([prompt])
        return prompt[max(end for _, end in encoding.offsets) :].strip() if encoding.overflowing else ""

    def _encoded(self, prompts: Sequence[str]) -> list[Any]:
        """The library's encoding of each prompt, which is clean. Raises InputError where the file is at fault."""
        with _refusals(self.path):
            return self._backend.encode_batch(prompts)


Encode = Callable[[Tensor, tuple[int, ...]], Ragged]  # token ids (S,) of B prompts with these lengths -> their states


class TextEncoder(NamedTuple):
    """A text encoder and its tokenizer. name: of the part, and of the stream of its states in a context."""

    name: str
    tokenizer: Tokenizer
    network: Encode

    def __call__(self, prompts: Sequence[str], device: torch.device) -> Ragged:
        """B prompts -> their states, from a network on this device."""
        ids, lengths = self.tokenizer(prompts)
        return self.network(ids.to(device), lengths)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Word what the library says of a file as an InputError: it raises bare Exception, and panics as no Exception."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, InputError) or not (isinstance(error, Exception) or "Panic" in type(error).__name__):
            raise
        raise InputError(f"{path} is not a tokenizer file: {error}") from None


def clean(prompt: str, mends: bool = False) -> str:
    """HTML entities as characters and every run of blanks as one, as the public models' prompts were prepared.

    `mends`: ftfy comes first, as it did for some: straight quotes, plain letters, text that was decoded wrongly.
    """
    if mends:
        import ftfy

        prompt = ftfy.fix_text(prompt)
    return " ".join(html.unescape(html.unescape(prompt)).split())


def train_tokenizer(captions: Sequence[str], path: Path, *, vocabulary: int) -> Tokenizer:
    """Learn a word-level tokenizer from captions and write it to `path`: for small closed worlds.

    Of scripts without blanks each letter is a word.
    """
    from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.WordLevel(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    letters = pre_tokenizers.Split(Regex(LETTER), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([letters, pre_tokenizers.Whitespace()])
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(captions, trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(path))
    return Tokenizer(path=path)


def byte_tokenizer(path: Path) -> Tokenizer:
    """Write a tokenizer whose tokens are the 256 bytes to `path`: it knows any text, and nothing is learnt."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<unk>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>"))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(path))
    return Tokenizer(path=path)


def extended(path: Path, captions: Iterable[str], *, vocabulary: int) -> bytes:
    """A tokenizer's file with the captions' words that it does not know, the most frequent first, as far as there is
    room. One that splits words into pieces, as public models' do, stays as it is.

    One that takes what is written without blanks for a word learns to see its letters, unless it knows such words.
    """
    content, known = path.read_bytes(), Tokenizer(path=path)
    as_json = json.loads(content)
    if as_json["model"].get("type") != "WordLevel":
        return content
    letters = re.compile(BLANKLESS)
    captions = list(captions)
    if any(map(letters.search, captions)) and not any(map(letters.search, as_json["model"]["vocab"])):
        split = {"type": "Split", "pattern": {"Regex": LETTER}, "behavior": "Isolated", "invert": False}
        before = as_json.get("pre_tokenizer")
        as_json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, *([before] if before else [])]}
        known = Tokenizer(path=path, text=json.dumps(as_json))
    normalizer = known._backend.normalizer
    normal = normalizer.normalize_str if normalizer else str
    counts = Counter(normal(word) for caption in captions for word in known.unknown_words(caption))
    new = sorted(counts, key=lambda word: (-counts[word], word))[: max(0, vocabulary - len(known))]
    as_json["model"]["vocab"] |= {word: len(known) + place for place, word in enumerate(new)}
    return json.dumps(as_json, ensure_ascii=False, indent=2).encode() if new else content
