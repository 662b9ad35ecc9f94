_Feed = tuple[list[object], bytes, bytes, int, int, int, object, int, float, int]

def fill(feed: _Feed, out: object, /) -> bool: ...
def gram(feed: _Feed, pivot: int, products: object, squared: object, /) -> bool: ...
def weigh(feed: _Feed, weights: object, out: object, /) -> bool: ...
def count(feed: _Feed, bins: object, /) -> bool: ...
def total(bins: object, /) -> None: ...
def decide(
    feed: _Feed,
    tables: object,
    bins: object,
    kept: object,
    streams: object,
    active: object,
    stay: float,
    slope: float,
    centre: float,
    /,
) -> tuple[bytes, bytes]: ...
def place(
    feed: _Feed,
    firsts: object,
    slots: object,
    ends: object,
    wanted: object,
    upto: object,
    equal: object,
    /,
) -> None: ...
def is_finite(data: object, code: int, /) -> bool: ...
def rank(feed: _Feed, pairs: object, first: int, out: object, /) -> None: ...
