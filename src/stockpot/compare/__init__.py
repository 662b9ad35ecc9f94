"""How checkpoints differ: distances and maps."""

__all__: list[str] = []
