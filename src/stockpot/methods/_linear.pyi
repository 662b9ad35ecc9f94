def combine(
    out: memoryview,
    out_type: int,
    inputs: list[memoryview],
    types: list[int],
    weights: list[float],
    divisor: float,
    slack: float,
    /,
) -> tuple[float, float, int, int, bytes]: ...
