"""Do captions say anything about their clips, and does the text encoder hear all of it?

The first by a linear probe on clips that it has not seen, beside shuffled captions.

    n clips, F features of a clip, W words
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from videodit.doctor.finding import Finding, judged
from videodit.models.pack import Context
from videodit.models.text import BLANKLESS

FEWEST = 48  # clips below which the probe says that it cannot tell
RARE = 3  # clips that a word must be in to count
SHUFFLES = 99
FOLDS = 4
GRID = (2, 4, 4)  # latents are averaged down to so many frames, rows and columns
UNKNOWN = 0.1  # share of the words that a frozen text encoder may not know
LETTER_OR = rf"{BLANKLESS}|(?:(?!{BLANKLESS})\%s)+"  # of a script without blanks, or a run of others
SURE = 0.02  # share of the shuffles that may do as well
MANY, ORDER = 32, 0.01  # captions whose words are shuffled; the change of their mean states, at least


def captions_tell(latents: Sequence[Tensor], captions: Sequence[str]) -> Finding:
    """Whether a ridge regression from a caption's words to its clip's coarse latents predicts held-out clips better
    than with shuffled captions. `latents`: each (C,t,h,w).
    """
    name = "captions tell of the clips"
    words = bag_of_words(captions)
    if len(latents) < FEWEST:
        return Finding(name, "unknown", f"{len(latents)} clips are too few to tell, {FEWEST} are needed")
    if words.shape[1] < 2 or len(words.unique(dim=0)) < 4:
        return Finding(name, "unknown", "the captions are nearly all the same")
    clips = coarse(latents)
    generator = torch.Generator().manual_seed(0)
    fitted = score(words, clips)
    shuffled = torch.stack(
        [score(words[torch.randperm(len(words), generator=generator)], clips) for _ in range(SHUFFLES)]
    )
    as_good = ((shuffled >= fitted).sum().item() + 1) / (SHUFFLES + 1)
    told = f"held-out correlation {fitted:.2f}, shuffled {shuffled.mean():.2f} (at most {shuffled.max():.2f})"
    return judged(name, as_good <= SURE, told, "they do not belong to these clips, or say nothing that is seen")


def captions_heard(captions: Sequence[Sequence[tuple[str, bool]]], *, frozen: bool) -> Finding:
    """Whether captions are several tokens each, and tokens known ones. captions: each one's words, with whether they
    are known. frozen: the text encoder does not learn those that are not.
    """
    name, there = "captions are heard", [words for words in captions if words]
    if not there:
        return Finding(name, "unknown", "no clip has a caption")
    tokens = [known for words in there for _, known in words]
    single, unknown = sum(len(words) == 1 for words in there), tokens.count(False)
    told = f"{len(there)} of {len(captions)} clips have one, {single} of one token; {unknown} of {len(tokens)} unknown"
    if single > len(there) / 2:
        return judged(name, False, told, "most captions are one token, in which no words are told apart")
    fault = "the text encoder is frozen and will not learn them: train it, or take a public one"
    return judged(name, not frozen or unknown <= UNKNOWN * len(tokens), told, fault)


@torch.no_grad()
def order_counts(encode: Callable[[Sequence[str]], Context], captions: Sequence[str]) -> Finding:
    """Whether the mean state of a caption changes when its words are shuffled. `encode`: captions to their states.

    Where it does not, "a red cube and a blue ball" is "a blue cube and a red ball", and no DiT can tell them apart.
    """
    name, chooser = "the order of words counts", Random(0)
    split = (re.findall(LETTER_OR % "S", caption) for caption in dict.fromkeys(captions))
    told = [words for words in split if len(words) > 3][:MANY]
    if not told:
        return Finding(name, "unknown", "no caption has more than three words")
    mixed = [" ".join(chooser.sample(words, len(words))) for words in told]
    was, now = (_mean_states(encode(said)) for said in ([" ".join(words) for words in told], mixed))
    change = ((now - was).norm(dim=1) / was.norm(dim=1)).mean().item()
    said = f"shuffled words change a caption's mean state by {100 * change:.1f} %, at least {100 * ORDER:g}"
    return judged(name, change >= ORDER, said, "the text encoder sees bags of words: its attention is dead")


def _mean_states(context: Context) -> Tensor:
    """One vector a caption (n,E), E of all streams."""
    each = (stream.states.split(stream.lengths) for stream in context.streams.values())
    return torch.stack([torch.cat([one.float().mean(0) for one in own]) for own in zip(*each, strict=True)])


def bag_of_words(captions: Sequence[str]) -> Tensor:
    """Which of the words that neither few nor all captions have are in each: (n,W) fp64."""
    split = [set(re.findall(LETTER_OR % "w", caption.lower())) for caption in captions]
    counts = Counter(word for words in split for word in words)
    known = sorted(word for word, count in counts.items() if RARE <= count < len(captions))
    return torch.tensor([[float(word in words) for word in known] for words in split], dtype=torch.float64)


def coarse(latents: Sequence[Tensor]) -> Tensor:
    """Latents of any shapes, averaged to one grid, every feature of unit spread: (n,F) fp64."""
    pooled = torch.stack([F.adaptive_avg_pool3d(x.double(), GRID).flatten() for x in latents])
    centred = pooled - pooled.mean(0)
    return centred / centred.std(0).clamp(min=1e-6)


def score(words: Tensor, clips: Tensor) -> Tensor:
    """Mean over clips of the correlation between what ridge regression predicts of a held-out clip and what it is."""
    found = []
    for fold in range(FOLDS):
        held = torch.arange(len(words)) % FOLDS == fold
        x, y = words[~held], clips[~held]
        centre, mean = x.mean(0), y.mean(0)
        x = x - centre
        gram = x @ x.T
        ridge = 0.1 * gram.diagonal().sum() / len(x) + 1e-9
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(x), dtype=x.dtype), y - mean)
        predicted = (words[held] - centre) @ x.T @ weights
        found.append(F.cosine_similarity(predicted, clips[held] - mean, dim=1))
    return torch.cat(found).mean()
