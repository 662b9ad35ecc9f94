def count(values: object, bins: object, /) -> None: ...
def decide(
    values: object,
    bins: object,
    packed: object,
    start: int,
    first: int,
    second: int,
    stay: float,
    slope: float,
    centre: float,
    /,
) -> bytes: ...
def drop(
    values: object,
    out: object,
    start: int,
    first: int,
    second: int,
    limit: int,
    factor: float,
    /,
) -> None: ...
def keep(values: object, out: object, packed: object, offset: int, factor: float, /) -> None: ...
def elect(panel: object, out: object, n: int, by_count: int, /) -> None: ...
def place(values: object, open: object, wanted: object, upto: object, equal: object, /) -> None: ...
