"""Scorers: pictures and prompts in, one number a picture out, higher is better.

Importing this package loads no torch; making a scorer does.
"""

from stockpot.scores._base import Images, Scorer, Scores
