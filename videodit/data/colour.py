"""The light of HDR and wide-gamut pictures, and 8-bit SDR pictures of it.

Sources, all ITU-R: BT.2100-2 (PQ and HLG, tables 4 and 5), BT.2390-10 section 5.4.1 (the tone curve), BT.2087-0
(primaries), BT.2408-7 (SDR's white in an HDR picture), BT.1886 (what light an SDR code value means).
Light is in cd/m2, per channel of linear RGB.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Transfer = Literal["pq", "hlg"]

WHITE = 203.0  # cd/m2: SDR's white within an HDR picture (BT.2408)
PEAK = 1000.0  # cd/m2: HLG's nominal peak, and the usual one of a display that PQ is mastered on
GAMMA = 2.4  # BT.1886 with a black of 0

# PQ (BT.2100 table 4)
M1, M2 = 2610 / 16384, 2523 / 4096 * 128
C1, C2, C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
# HLG (BT.2100 table 5)
A, B, C = 0.17883277, 0.28466892, 0.55991073
HLG_GAMMA = 1.2  # of a display with a peak of 1000 cd/m2
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020's primaries

# Linear BT.709 to linear BT.2020 (BT.2087-0); its rows sum to 1, so grey stays grey.
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def pq_to_light(signal: np.ndarray) -> np.ndarray:
    """PQ's EOTF: a signal in [0,1] to light, 0 to 10000."""
    root = np.power(signal, 1 / M2)
    return 10000 * np.power(np.maximum(root - C1, 0) / (C2 - C3 * root), 1 / M1)


def light_to_pq(light: np.ndarray) -> np.ndarray:
    """The inverse of `pq_to_light`."""
    root = np.power(light / 10000, M1)
    return np.power((C1 + C2 * root) / (1 + C3 * root), M2)


def hlg_to_light(signal: np.ndarray) -> np.ndarray:
    """HLG's EOTF on a display of PEAK, black 0: a signal (…,3) in [0,1] to light (…,3), 0 to PEAK.

    The inverse OETF gives the scene's light, the OOTF the display's: a factor that depends on luminance.
    """
    scene = np.where(signal <= 0.5, signal * signal / 3, (np.exp((signal - C) / A) + B) / 12)
    luminance = (scene @ LUMINANCE.astype(scene.dtype))[..., None]
    return PEAK * np.power(np.maximum(luminance, 1e-12), HLG_GAMMA - 1) * scene


def tone(light: np.ndarray) -> np.ndarray:
    """BT.2390's EETF from a peak of PEAK to one of WHITE: light to light, 0 to WHITE, monotone.

    Below the knee, 88 cd/m2 (71 % of an SDR signal), nothing changes; light above PEAK becomes WHITE.
    """
    peak = light_to_pq(np.array(PEAK))
    most = light_to_pq(np.array(WHITE)) / peak
    knee = 1.5 * most - 0.5
    signal = np.minimum(light_to_pq(light) / peak, 1)
    t = (np.maximum(signal, knee) - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    )  # Hermite's: leaves the knee with slope 1, arrives at the peak with slope 0
    return pq_to_light(np.where(signal < knee, signal, spline) * peak)


def to_sdr(image: np.ndarray, *, transfer: Transfer | None, wide: bool) -> np.ndarray:
    """A picture, uint16 (H,W,3) over its full range, as BT.709 SDR, uint8 (H,W,3).

    `transfer` None is SDR already (BT.1886). `wide`: the primaries are BT.2020's; what BT.709 lacks is clipped.
    The tone curve acts on the strongest of a pixel's three lights and the others keep their proportion to it, so hues
    stay. Curves are tables of 65536 entries over a square or fourth root, which are even enough to the eye.
    """
    code = np.linspace(0, 1, 65536)
    if transfer == "hlg":
        light = hlg_to_light(code.astype(np.float32)[image])
    else:
        light = (pq_to_light(code) if transfer else WHITE * code**GAMMA).astype(np.float32)[image]
    if wide:
        light = np.maximum(light @ np.linalg.inv(TO_BT2020).T.astype(np.float32), 0)
    if transfer:
        most = 10000 * code[1:] ** 4
        gain = np.concatenate([[1], tone(most) / most]).astype(np.float32)
        strongest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])  # max(axis=-1) is slow
        place = np.sqrt(np.sqrt(np.minimum(strongest / np.float32(10000), 1)))
        light *= gain[(place * 65535).astype(np.uint16)][..., None]
    signal = np.rint(255 * code ** (2 / GAMMA)).astype(np.uint8)
    return signal[(np.sqrt(np.minimum(light / np.float32(WHITE), 1)) * 65535 + np.float32(0.5)).astype(np.uint16)]
