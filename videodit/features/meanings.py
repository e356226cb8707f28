"""What is measured of every clip: the names of the numbers, in their order, and what each says.

Nothing here imports a library, so that help answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "black": "share of the frames that are black, 0 to 1",
        "frozen": "share of the pairs of neighbouring frames that show the same picture, 0 to 1",
        "motion": "mean speed of the picture's points, the camera's movement included, in frame widths a second",
        "flicker": "jitter of the brightness from frame to frame beyond its steady change, in percent of white, "
        "0 to 100",
        "sharpness": "detail of the picture at a fixed size: log10 of 1 + the variance of its Laplacian, 0 to about 5",
        "compression": "trace of 8 x 8 blocks, as compression leaves it: 0 none, above 0.1 visible, at most 1",
        "text": "share of the picture that looks like lettering that stands still, 0 to 1 (a guess from its edges)",
        "brightness": "mean luma, 0 black to 1 white",
        "contrast": "standard deviation of luma within a frame, 0 to 0.5",
        "saturation": "mean difference of the largest and the smallest of red, green and blue, 0 grey to 1",
    }
)
