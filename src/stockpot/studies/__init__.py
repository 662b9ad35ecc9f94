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
    own_encoders,
    plain_data,
)
from stockpot.studies.classifying import (
    Classifier,
    read_concepts,
    scorer_classifier,
    zoo_classifier,
)
from stockpot.studies.contrasts import Contrast, contrast_all
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
    sign_flips,
)
from stockpot.studies.table import STUDIES, find_studies

__all__ = [
    "STUDIES",
    "Answer",
    "Classifier",
    "Contrast",
    "Embed",
    "Gallery",
    "Interval",
    "Made",
    "Mantel",
    "Setting",
    "Study",
    "average",
    "bootstrap_means",
    "contrast_all",
    "correlate",
    "find_studies",
    "groups_of",
    "holm",
    "mantel",
    "mse",
    "own_encoders",
    "plain_data",
    "random_orders",
    "read_concepts",
    "scorer_classifier",
    "shrink",
    "sift_apart",
    "sign_flips",
    "structure_apart",
    "zoo_classifier",
    "zoo_embedding",
]
