"""Questions about mixes that people argue over, answered by measurement on any pool.

Importing this package loads neither torch nor diffusers.
"""

from stockpot.studies._base import (
    Answer,
    Embed,
    Setting,
    Study,
    average,
    groups_of,
    plain_data,
)
from stockpot.studies.gallery import Gallery, Made
from stockpot.studies.measures import mse, shrink, sift_apart, structure_apart, zoo_embedding
from stockpot.studies.statistics import (
    Interval,
    Mantel,
    bootstrap_means,
    correlate,
    holm,
    mantel,
    random_orders,
)
from stockpot.studies.table import STUDIES, find_studies

__all__ = [
    "STUDIES",
    "Answer",
    "Embed",
    "Gallery",
    "Interval",
    "Made",
    "Mantel",
    "Setting",
    "Study",
    "average",
    "bootstrap_means",
    "correlate",
    "find_studies",
    "groups_of",
    "holm",
    "mantel",
    "mse",
    "plain_data",
    "random_orders",
    "shrink",
    "sift_apart",
    "structure_apart",
    "zoo_embedding",
]
