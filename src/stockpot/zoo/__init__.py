"""The zoo: a small family of real, trained checkpoints, and the world that they draw.

The files themselves are a distribution of their own, `stockpot-zoo`; this package reads its
index. `stockpot.zoo.shapes` is the world (captions and pictures), `stockpot.zoo.variants` derives
duplicates and damaged files from members. Nothing here loads torch.

Examples:
    >>> base = next(member for member in family() if member.role == "base")
    >>> base.parent is None, base.path.suffix
    (True, '.safetensors')
"""

from stockpot.zoo._family import Extra, Member, ZooNotInstalled, extras, family, member, zoo_path

__all__ = ["Extra", "Member", "ZooNotInstalled", "extras", "family", "member", "zoo_path"]
