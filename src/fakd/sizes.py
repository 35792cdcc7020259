"""Image sizes for inference."""


def fitted_size(size: tuple[int, int], base: tuple[int, int], factor: float) -> tuple[int, int]:
    """Fit height and width into the scaled long and short side of ``base``, keeping proportions."""
    long, short = int(max(base) * factor), int(min(base) * factor)
    fitted = min(long / max(size), short / min(size))
    height, width = (max(int(side * fitted + 0.5), 1) for side in size)
    return height, width
