"""Respacing strings of Nichol & Dhariwal's code, which say how many timesteps a shorter chain keeps.

Nothing here loads PyTorch.
"""


def read_respacing(spacing: str) -> tuple[list[int], bool]:
    """The counts in a respacing string such as "10,15,20", and whether it asks for a constant stride, as "ddim50" does.

    Raises:
        ValueError: It has another form.
    """
    has_stride, text = spacing.startswith("ddim"), spacing.removeprefix("ddim")
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts) or (has_stride and len(parts) > 1):
        forms = "a count such as '250', a list such as '10,15,20', or 'ddim50'"
        raise ValueError(f"respacing {spacing!r}: expected {forms}")
    return [int(part) for part in parts], has_stride


def evenly_spaced(spacing: str, steps: int) -> list[int]:
    """The timesteps that a respacing string keeps of a chain, in increasing order.

    Args:
        spacing: Counts for equal parts of the chain, "10,15,20", each spread evenly with both ends of its part
            included; or "ddim50", 50 at a constant integer stride (Song et al. 2021, arXiv 2010.02502).
        steps: Length of the chain.

    Raises:
        ValueError: It has another form, or asks for more timesteps than there are.
    """
    counts, has_stride = read_respacing(spacing)
    if has_stride:
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == counts[0]:
                return list(range(0, steps, stride))
        raise ValueError(f"respacing {spacing!r}: no integer stride over {steps} steps keeps exactly {counts[0]}")
    kept: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (i < steps % len(counts))
        if count > size:
            raise ValueError(f"respacing {spacing!r}: part {i + 1} has {size} steps, too few to keep {count}")
        # the running sum, not i * gap: the published step lists were rounded from it
        gap, position = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += gap
        start += size
    return kept
