"""Measures of a clip: a dozen numbers from one pass over its frames, of which only a small copy of the last is kept.

Frames are uint8 (H,W,3) RGB of one size. Brightness is luma (BT.601, as OpenCV's grey). Numbers do not depend on the
clip's resolution, except `compression`, which needs the pixels as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from videodit.errors import InputError
from videodit.features.frames import checked, opencv, shrink
from videodit.features.meanings import MEANINGS

# A black frame, as FFmpeg's blackdetect has it: this share of the pixels is darker than this share of white.
BLACK_SHARE, BLACK_LUMA = 0.98, 0.1
# The same picture, as FFmpeg's freezedetect has it (mean |difference| as a share of white); no pixel of the small
# picture may differ by more levels than the second number, or a small thing that moves over a still would be missed.
FROZEN_MEAN, FROZEN_MOST = 0.001, 12
SLOW = 8.0  # frames a second for what changes slowly: motion, sharpness, lettering, colour
NATIVE = 1.0  # frames a second that are looked at in full size
FEW = 6  # frames of a clip that a model sees
FLOW_EDGE = 32  # pixels of the short side that the optical flow needs
GRID = 8  # pixels between the edges of the blocks of JPEG, MPEG-1 to MPEG-4 and most of H.264


class Clip(NamedTuple):
    """What is known of a clip before its frames: frames a second, pixels of the small pictures' short side, and how
    many frames it has (0: not known)."""

    fps: float
    edge: int
    count: int


class View(NamedTuple):
    """A frame as measures see it: its number, in full size, grey (H,W), small and grey (h,w), that of the frame before,
    and whether both show the same picture."""

    index: int
    frame: np.ndarray
    grey: np.ndarray
    small: np.ndarray
    before: np.ndarray | None
    frozen: bool


class Running(Protocol):
    """A measure on its way through a clip."""

    def see(self, view: View) -> None:
        """Take in the next frame."""

    def number(self) -> Any:
        """The number of what was seen."""


class Measure(NamedTuple):
    """One thing to measure of a clip.

    name: of the number, and of its column. meaning: what it says, its unit and its range. start: begins with a clip.
    """

    name: str
    meaning: str
    start: Callable[[Clip], Running]


class Scorer(Protocol):
    """A learned opinion on a clip (aesthetics, safety …), which callers keep as `score_<name>`. None comes along."""

    name: str

    def __call__(self, frames: Sequence[np.ndarray]) -> float:
        """The score of a handful of a clip's frames, uint8 (H,W,3) each."""


class Embedder(Protocol):
    """Where a clip lies among others: those that look alike lie in nearly the same direction.

    looks: whether it needs the frames.
    """

    looks: bool

    def __call__(self, frames: Sequence[np.ndarray]) -> Sequence[float]:
        """The direction (D,) of a handful of a clip's frames, uint8 (H,W,3) each."""


@dataclass(frozen=True)
class NoEmbedding:
    """Gives no direction, in which no clip is like another."""

    looks = False

    def __call__(self, frames: Sequence[np.ndarray]) -> Sequence[float]:
        """Nothing."""
        return []


def measure(
    frames: Iterable[np.ndarray], fps: float, *, edge: int, measures: Sequence[Measure] | None = None, count: int = 0
) -> dict[str, Any]:
    """Measure frames uint8 (H,W,3) of one size at `fps` a second: a number for each of `measures` (None: MEASURES).

    edge: pixels of the short side that frames are shrunk to (256 serves). count: of the frames; where it is known, a
    model sees a few of them, evenly spread, else all. A clip of one frame has no motion, frozen pairs or flicker.
    Raises InputError for no frames at all, frames of several sizes and arguments out of range.
    """
    seen = watch(frames, fps, edge=edge, measures=MEASURES if measures is None else measures, count=count)
    return {name: running.number() for name, running in seen.items()}


def watch(
    frames: Iterable[np.ndarray], fps: float, *, edge: int, measures: Sequence[Measure], count: int
) -> dict[str, Running]:
    """Show all frames to the measures, which tell their numbers later: see `measure`."""
    if not (0 < fps < math.inf and edge >= 32):
        raise InputError(f"fps must be above 0 and edge 32 or more, got {fps} and {edge}")
    cv2, view = opencv(), None
    running = {one.name: one.start(Clip(fps, edge, count)) for one in measures}
    for index, frame in enumerate(frames):
        if view is not None and checked(frame).shape != view.frame.shape:
            raise InputError(f"frame {index} has another size than those before: {frame.shape}, {view.frame.shape}")
        grey = cv2.cvtColor(checked(frame), cv2.COLOR_RGB2GRAY)
        small, before = shrink(grey, edge), None if view is None else view.small
        view = View(index, frame, grey, small, before, before is not None and _same(before, small))
        for one in running.values():
            one.see(view)
    if view is None:
        raise InputError("no frames to measure")
    return running


class Mean:
    """The mean of a function of the views.

    rate: how many a second are taken, None for all. pairs: the function is of a frame and the one before it.
    """

    def __init__(
        self, of: Callable[[View], float], clip: Clip, rate: float | None = None, *, pairs: bool = False
    ) -> None:
        self.of, self.fps, self.rate, self.pairs = of, clip.fps, rate, pairs
        self.values: list[float] = []

    def see(self, view: View) -> None:
        """Take in the next frame."""
        place = view.index - self.pairs
        if place >= 0 and _due(place, self.fps, self.rate):
            self.values.append(float(self.of(view)))

    def number(self) -> float:
        """The mean, 0 of nothing."""
        return float(np.mean(self.values)) if self.values else 0.0


class Flicker(Mean):
    """The mean jitter of a function of the views beyond its steady change, in percent."""

    def number(self) -> float:
        """The mean second difference, halved."""
        # What changes evenly, as motion changes brightness, has no second difference. Half of it is, of a flicker
        # between two levels, their distance.
        return 50 * float(np.abs(np.diff(self.values, 2)).mean()) if len(self.values) > 2 else 0.0


class Handful:
    """What a model makes of a few frames, evenly spread over the clip."""

    def __init__(self, model: Callable[[Sequence[np.ndarray]], Any], clip: Clip, *, looks: bool = True) -> None:
        self.model, self.looks, self.every = model, looks, max(math.ceil(clip.count / FEW), 1)
        self.frames: list[np.ndarray] = []

    def see(self, view: View) -> None:
        """Keep every so many frames."""
        if self.looks and view.index % self.every == 0:
            self.frames.append(view.frame)

    def number(self) -> Any:
        """What the model gives."""
        return self.model(self.frames)


def score(scorer: Scorer) -> Measure:
    """The measure `score_<name>` of a learned opinion."""
    meaning = getattr(scorer, "meaning", "a learned score")
    return Measure(f"score_{scorer.name}", meaning, lambda clip: Handful(lambda frames: float(scorer(frames)), clip))


def embedding(embedder: Embedder) -> Measure:
    """The direction of a clip among others, as a measure of that name."""
    meaning = "direction in which clips lie that look alike, a vector of length 1"
    return Measure("embedding", meaning, lambda clip: Handful(embedder, clip, looks=embedder.looks))


def _due(index: int, fps: float, rate: float | None) -> bool:
    """Whether frame `index` is the first one at or after a multiple of 1 / rate seconds."""
    return rate is None or math.ceil(index * rate / fps) > math.ceil((index - 1) * rate / fps) or index == 0


def _same(before: np.ndarray, small: np.ndarray) -> bool:
    """Whether two grey pictures show the same."""
    difference = opencv().absdiff(before, small)
    return bool(difference.mean() <= FROZEN_MEAN * 255 and difference.max() <= FROZEN_MOST)


def _black(view: View) -> float:
    return np.count_nonzero(view.small < BLACK_LUMA * 255) >= BLACK_SHARE * view.small.size


def _luma(view: View) -> float:
    return float(view.small.mean()) / 255


def _sharpness(view: View) -> float:
    """log10(1 + variance of the Laplacian) of a grey picture (Pech-Pacheco et al., ICPR 2000)."""
    cv2 = opencv()
    return math.log10(1 + cv2.meanStdDev(cv2.Laplacian(view.small, cv2.CV_16S))[1].item() ** 2)


def _contrast(view: View) -> float:
    return opencv().meanStdDev(view.small)[1].item() / 255


def _saturation(view: View) -> float:
    step = max(min(view.frame.shape[:2]) // 64, 1)
    colours = view.frame[step // 2 :: step, step // 2 :: step].reshape(-1, 3)
    return (colours.max(axis=1) - colours.min(axis=1)).mean() / 255


def _speed(clip: Clip) -> Callable[[View], float]:
    """Mean length of the optical flow (DIS: Kroeger et al., ECCV 2016) from the frame before, in widths a second."""
    cv2 = opencv()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def speed(view: View) -> float:
        if view.frozen:
            return 0.0
        height, width = view.small.shape
        pair, enlarge = (view.before, view.small), math.ceil(FLOW_EDGE / min(height, width))
        if enlarge > 1:
            pair = [cv2.resize(each, (width * enlarge, height * enlarge)) for each in pair]
        field = flow.calc(*pair, None)
        return float(cv2.magnitude(field[..., 0], field[..., 1]).mean()) / pair[1].shape[1] * clip.fps

    return speed


class BlockGrid:
    """Traces of a grid of 8 x 8 blocks, wherever it begins.

    A step from one pixel to the next that is larger than those on both sides of it is a local edge. In a picture as it
    comes from a camera such edges are as frequent in each of 8 columns; blocks make those at their borders more
    frequent. Counting edges, not their height, keeps the scene's own contours out (after Muijs and Kirenko, "A
    no-reference blocking artifact measure", 2005). A picture that was scaled after compression shows no grid of 8.
    """

    def __init__(self, clip: Clip) -> None:
        self.fps = clip.fps
        self.edges, self.steps = np.zeros((2, GRID)), np.zeros((2, GRID))

    def see(self, view: View) -> None:
        """Count the picture in full size, of one frame a second."""
        if _due(view.index, self.fps, NATIVE):
            self.count(view.grey)

    def count(self, grey: np.ndarray) -> None:
        """Count a picture, grey uint8 (H,W) in full size."""
        for axis, picture in enumerate((grey, grey.T)):
            columns = picture.astype(np.int16)
            step = np.abs(columns[:, 1:] - columns[:, :-1])
            if step.shape[1] < 2 * GRID:
                continue
            edge = (step[:, 1:-1] > step[:, :-2]) & (step[:, 1:-1] > step[:, 2:])
            counts, phase = edge.sum(axis=0), np.arange(edge.shape[1]) % GRID
            self.edges[axis] += np.bincount(phase, counts, GRID)
            self.steps[axis] += np.bincount(phase, minlength=GRID) * edge.shape[0]

    def number(self) -> float:
        """How much more frequent local edges are in the most frequent column, and row, than in the others' median."""
        shares = self.edges / np.maximum(self.steps, 1)
        return float(np.mean(shares.max(axis=1) - np.median(shares, axis=1)))


class Lettering:
    """The share of the picture covered by what looks like letters that stand still: a guess, not a reading.

    Strong edges that stay where they are for a second are joined along lines of writing; of the areas this makes, those
    of a line's proportions count that are dense with strokes. A fence or a facade under a still camera may pass
    for lettering, large single letters and moving titles may not. No letter is read.
    """

    STRONG = 48  # levels between neighbouring pixels

    def __init__(self, clip: Clip) -> None:
        self.edge, self.fps, self.second = clip.edge, clip.fps, max(round(min(SLOW, clip.fps)), 1)
        self.standing: np.ndarray | None = None  # the least gradient that each pixel had
        self.seen, self.shares = 0, []

    def see(self, view: View) -> None:
        """Look at the small picture, of some frames a second."""
        if _due(view.index, self.fps, SLOW):
            self.count(view.small)

    def count(self, small: np.ndarray) -> None:
        """Look at a picture, grey uint8 (h,w)."""
        cv2 = opencv()
        gradient = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        self.standing = gradient if self.standing is None else cv2.min(self.standing, gradient)
        self.seen += 1
        if self.seen == self.second:
            self._finish()

    def number(self) -> float:
        """The mean over the seconds so far; a last one that is not full counts only where it is alone."""
        if not self.shares:
            self._finish()
        return float(np.mean(self.shares))

    def _finish(self) -> None:
        self.shares.append(self._share(self.standing))
        self.standing, self.seen = None, 0

    def _share(self, gradient: np.ndarray) -> float:
        cv2 = opencv()
        strokes = (gradient >= self.STRONG).astype(np.uint8)
        gap = max(self.edge // 24, 3)  # between letters and words
        joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((3, gap), np.uint8))
        joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((max(self.edge // 50, 3), gap), np.uint8))
        count, places, boxes, _ = cv2.connectedComponentsWithStats(joined)
        turns = np.zeros_like(strokes)
        turns[:, 1:] = strokes[:, 1:] != strokes[:, :-1]
        area = 0
        for x, y, width, height, size in boxes[1:count]:
            box = np.s_[y : y + height, x : x + width]
            line = self.edge / 50 <= height <= self.edge / 5 and width >= 1.5 * height
            # A stroke begins and ends about once in the width that letters take, half their height.
            if line and size >= 0.6 * width * height and turns[box].sum(axis=1).mean() >= width / height:
                area += int(size)
        return area / gradient.size


MEASURES = tuple(
    Measure(name, MEANINGS[name], start)
    for name, start in (
        ("black", lambda clip: Mean(_black, clip)),
        ("frozen", lambda clip: Mean(lambda view: view.frozen, clip, pairs=True)),
        ("motion", lambda clip: Mean(_speed(clip), clip, SLOW, pairs=True)),
        ("flicker", lambda clip: Flicker(_luma, clip)),
        ("sharpness", lambda clip: Mean(_sharpness, clip, SLOW)),
        ("compression", BlockGrid),
        ("text", Lettering),
        ("brightness", lambda clip: Mean(_luma, clip)),
        ("contrast", lambda clip: Mean(_contrast, clip, SLOW)),
        ("saturation", lambda clip: Mean(_saturation, clip, SLOW)),
    )
)
