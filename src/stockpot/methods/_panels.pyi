_Feed = tuple[list[object], bytes, bytes, int, int, int, object, int, float, int]

def fill(feed: _Feed, out: object, /) -> bool: ...
def gram(feed: _Feed, pivot: int, products: object, squared: object, /) -> bool: ...
def weigh(feed: _Feed, weights: object, out: object, /) -> bool: ...
def count(feed: _Feed, bins: object, /) -> bool: ...
def decide(
    feed: _Feed,
    row: int,
    bins: object,
    packed: object,
    first: int,
    second: int,
    stay: float,
    slope: float,
    centre: float,
    /,
) -> tuple[bytes, bytes]: ...
def place(
    feed: _Feed, row: int, begins: object, wanted: object, upto: object, equal: object, /
) -> None: ...
