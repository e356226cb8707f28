"""What a clip is like, in a dozen numbers: one pass over its frames, none of which is kept but the last one made small.

Frames are uint8 (H,W,3) RGB of one size. Brightness is luma (BT.601, as OpenCV's grey). Numbers do not depend on the
clip's resolution, except `compression`, which needs the pixels as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from videodit.errors import InputError
from videodit.ingest.images import checked, opencv, shrink

MEASURES = {
    "black": "share of the frames that are black, 0 to 1",
    "frozen": "share of the pairs of neighbouring frames that show the same picture, 0 to 1",
    "motion": "mean speed of the picture's points, the camera's movement included, in frame widths a second",
    "flicker": "jitter of the brightness from frame to frame beyond its steady change, in percent of white, 0 to 100",
    "sharpness": "detail of the picture at a fixed size: log10 of 1 + the variance of its Laplacian, 0 to about 5",
    "compression": "trace of 8 x 8 blocks, as compression leaves it: 0 none, above 0.1 visible, at most 1",
    "text": "share of the picture that looks like lettering that stands still, 0 to 1 (a guess from its edges)",
    "brightness": "mean luma, 0 black to 1 white",
    "contrast": "standard deviation of luma within a frame, 0 to 0.5",
    "saturation": "mean difference of the largest and the smallest of red, green and blue, 0 grey to 1",
}

# A black frame, as FFmpeg's blackdetect has it: this share of the pixels is darker than this share of white.
BLACK_SHARE, BLACK_LUMA = 0.98, 0.1
# The same picture, as FFmpeg's freezedetect has it (mean |difference| as a share of white); no pixel of the small
# picture may differ by more levels than the second number, or a small thing that moves over a still would be missed.
FROZEN_MEAN, FROZEN_MOST = 0.001, 12
LOOKS = 8.0  # frames a second for what changes slowly: motion, sharpness, lettering, colour
NATIVE_LOOKS = 1.0  # frames a second that are looked at in full size
FLOW_EDGE = 32  # pixels of the short side that the optical flow needs
GRID = 8  # pixels between the edges of the blocks of JPEG, MPEG-1 to MPEG-4 and most of H.264


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


def measure(frames: Iterable[np.ndarray], fps: float, *, edge: int) -> dict[str, float]:
    """The numbers that MEASURES names, of frames uint8 (H,W,3) of one size at `fps` a second.

    edge: pixels of the short side that frames are shrunk to (256 serves). A clip of one frame has no motion, frozen
    pairs or flicker. Raises InputError for no frames at all, frames of several sizes and arguments out of range.
    """
    if not (0 < fps < math.inf and edge >= 32):
        raise InputError(f"fps must be above 0 and edge 32 or more, got {fps} and {edge}")
    cv2 = opencv()
    state = _Clip(fps, edge)
    size, previous = None, None
    for index, frame in enumerate(frames):
        if size not in (None, checked(frame).shape):
            raise InputError(f"frame {index} has another size than those before: {frame.shape}, {size}")
        size, grey = frame.shape, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        small = shrink(grey, edge)
        state.see(small)
        if _due(index, fps, NATIVE_LOOKS):
            state.grid.see(grey)
        if previous is not None:
            state.compare(previous, small, moving=_due(index - 1, fps, LOOKS))
        if _due(index, fps, LOOKS):
            state.look(small, frame)
        previous = small
    if size is None:
        raise InputError("no frames to measure")
    return state.numbers()


class _Clip:
    """Sums over the frames of a clip."""

    def __init__(self, fps: float, edge: int) -> None:
        self.fps = fps
        self.levels: list[float] = []  # mean luma of each frame
        self.black = self.pairs = self.frozen = 0
        self.looks: list[tuple[float, float, float]] = []  # sharpness, contrast, saturation
        self.speeds: list[float] = []
        self.grid, self.text = BlockGrid(), Lettering(edge, round(min(LOOKS, fps)))
        self.flow = opencv().DISOpticalFlow_create(opencv().DISOPTICAL_FLOW_PRESET_FAST)

    def see(self, small: np.ndarray) -> None:
        """Count a frame, grey uint8 (h,w)."""
        self.levels.append(float(small.mean()) / 255)
        self.black += np.count_nonzero(small < BLACK_LUMA * 255) >= BLACK_SHARE * small.size

    def compare(self, previous: np.ndarray, small: np.ndarray, *, moving: bool) -> None:
        """Count a pair of neighbouring frames, grey uint8 (h,w); `moving` asks for its optical flow."""
        difference = opencv().absdiff(previous, small)
        frozen = difference.mean() <= FROZEN_MEAN * 255 and difference.max() <= FROZEN_MOST
        self.pairs += 1
        self.frozen += frozen
        if moving:
            self.speeds.append(0.0 if frozen else _speed(self.flow, previous, small) * self.fps)

    def look(self, small: np.ndarray, frame: np.ndarray) -> None:
        """Take the numbers that change slowly from a frame, grey uint8 (h,w) and RGB uint8 (H,W,3)."""
        cv2 = opencv()
        step = max(min(frame.shape[:2]) // 64, 1)
        colours = frame[step // 2 :: step, step // 2 :: step].reshape(-1, 3)
        saturation = (colours.max(axis=1) - colours.min(axis=1)).mean() / 255
        self.looks.append((_sharpness(small), cv2.meanStdDev(small)[1].item() / 255, float(saturation)))
        self.text.see(small)

    def numbers(self) -> dict[str, float]:
        sharpness, contrast, saturation = np.mean(self.looks, axis=0).tolist()
        levels = np.array(self.levels)
        # Brightness that changes evenly, as motion changes it, has no second difference. Half of it is, of a flicker
        # between two levels, their distance.
        jitter = np.abs(levels[2:] - 2 * levels[1:-1] + levels[:-2]).mean() / 2 if len(levels) > 2 else 0.0
        return {
            "black": float(self.black / len(levels)),
            "frozen": float(self.frozen / max(self.pairs, 1)),
            "motion": float(np.mean(self.speeds)) if self.speeds else 0.0,
            "flicker": 100 * float(jitter),
            "sharpness": sharpness,
            "compression": self.grid.number(),
            "text": self.text.number(),
            "brightness": float(levels.mean()),
            "contrast": contrast,
            "saturation": saturation,
        }


def _due(index: int, fps: float, rate: float) -> bool:
    """Whether frame `index` is the first one at or after a multiple of 1 / rate seconds."""
    return math.ceil(index * rate / fps) > math.ceil((index - 1) * rate / fps) or index == 0


def _sharpness(small: np.ndarray) -> float:
    """log10(1 + variance of the Laplacian) of a grey picture (Pech-Pacheco et al., ICPR 2000)."""
    cv2 = opencv()
    return math.log10(1 + cv2.meanStdDev(cv2.Laplacian(small, cv2.CV_16S))[1].item() ** 2)


def _speed(flow: object, previous: np.ndarray, small: np.ndarray) -> float:
    """Mean length of the optical flow (DIS: Kroeger et al., ECCV 2016) between two grey pictures, in their widths."""
    cv2 = opencv()
    enlarge = math.ceil(FLOW_EDGE / min(small.shape))
    if enlarge > 1:
        height, width = small.shape
        previous, small = (cv2.resize(each, (width * enlarge, height * enlarge)) for each in (previous, small))
    field = flow.calc(previous, small, None)
    return float(cv2.magnitude(field[..., 0], field[..., 1]).mean()) / small.shape[1]


class BlockGrid:
    """Traces of a grid of 8 x 8 blocks, wherever it begins.

    A step from one pixel to the next that is larger than those on both sides of it is a local edge. In a picture as it
    comes from a camera such edges are as frequent in each of 8 columns; blocks make those at their borders more
    frequent. Counting edges, not their height, keeps the scene's own contours out (after Muijs and Kirenko, "A
    no-reference blocking artifact measure", 2005). A picture that was scaled after compression shows no grid of 8.
    """

    def __init__(self) -> None:
        self.edges, self.steps = np.zeros((2, GRID)), np.zeros((2, GRID))

    def see(self, grey: np.ndarray) -> None:
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

    def __init__(self, edge: int, looks: int) -> None:
        """edge: the short side of the pictures; looks: how many of them make a second."""
        self.edge, self.looks = edge, max(looks, 1)
        self.standing: np.ndarray | None = None  # the least gradient that each pixel had
        self.seen, self.shares = 0, []

    def see(self, small: np.ndarray) -> None:
        """Look at a picture, grey uint8 (h,w)."""
        cv2 = opencv()
        gradient = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        self.standing = gradient if self.standing is None else cv2.min(self.standing, gradient)
        self.seen += 1
        if self.seen == self.looks:
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
