"""What everything that looks at frames needs: OpenCV, which is an extra, and frames made small.

A frame is uint8 (H,W,3) RGB; a grey picture uint8 (h,w).
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from videodit.errors import InputError, Stop


def opencv() -> ModuleType:
    """The module cv2. Raises Stop that says how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise Stop('looking at frames needs OpenCV: pip install "videodit[ingest]"') from error
    cv2.setNumThreads(1)  # there is a process for each core
    return cv2


def checked(frame: np.ndarray) -> np.ndarray:
    """The frame as it is. Raises InputError unless it is uint8 (H,W,3) and not empty."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise InputError(f"a frame must be uint8 (H,W,3) and not empty, got {frame.dtype} {frame.shape}")
    return frame


def shrink(picture: np.ndarray, edge: int) -> np.ndarray:
    """A picture uint8 (H,W) or (H,W,3) with its short side brought down to `edge` pixels; a smaller one stays as it is.

    Each pixel is the mean of those it stands for. Halving first is five times as fast as one step; where the number of
    rows or columns is odd, it leaves out the last one.
    """
    cv2 = opencv()
    height, width = picture.shape[:2]
    while min(height, width) >= 2 * edge:
        even = picture[: height // 2 * 2, : width // 2 * 2]
        picture = cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        height, width = picture.shape[:2]
    scale = edge / min(height, width)
    if scale >= 1:
        return picture
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
