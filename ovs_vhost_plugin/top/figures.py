# SPDX-License-Identifier: Apache-2.0
"""Numbers in five characters."""

_SCALES = "kMGTPE"


def in_short(value: float | None) -> str:
    """Three digits and the SI's prefix: "0", "0.5", "12.3k", "1.23M"; "-" if it is not known."""
    if value is None:
        return "-"
    if value < 999.5:
        return f"{value:.0f}" if value >= 9.95 or value == round(value) else f"{value:.1f}"
    scale = -1
    while value >= 999.5 and scale < len(_SCALES) - 1:
        value /= 1000
        scale += 1
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{places}f}{_SCALES[scale]}"
