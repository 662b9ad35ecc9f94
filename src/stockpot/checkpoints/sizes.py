"""Sizes as people read them."""

__all__ = ["size_text"]


def size_text(n_bytes: int) -> str:
    """Write a number of bytes for people.

    Args:
        n_bytes: Zero or more.

    Returns:
        Three digits and a decimal unit.

    Example:
        >>> size_text(2132625894)
        '2.13 GB'
    """
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
