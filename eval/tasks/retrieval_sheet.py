"""Queries with the images ranked first, for the report: a green border is right, a red one wrong.

Legend: Q queries, N images of the database, D width.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..probe import FloatArray
from .base import Example
from .borders import ASKED, RIGHT, WRONG, framed, spread
from .files import read_image
from .retrieval_sets import Query, RetrievalSet

NUM_SHOWN, NUM_NEAREST = 6, 5


def sheet(
    found: RetrievalSet,
    difficulty: str,
    ranked_QN: NDArray[np.int64],
    queries_QD: FloatArray,
    database_ND: FloatArray,
    image_of: Callable[[Query], Image.Image],
) -> tuple[Example, ...]:
    """A few queries, spread evenly over those with a positive whatever an encoder says of them, and their five nearest."""
    asked = [row for row, query in enumerate(found.queries) if len(query.judged[difficulty][0])]
    chosen = [asked[place] for place in spread(len(asked), NUM_SHOWN)]
    return tuple(
        _example(found, found.queries[row], difficulty, ranked_QN[row], database_ND @ queries_QD[row], image_of)
        for row in chosen
    )


def _example(
    found: RetrievalSet,
    query: Query,
    difficulty: str,
    ranked_N: NDArray[np.int64],
    cosines_N: FloatArray,
    image_of: Callable[[Query], Image.Image],
) -> Example:
    positives, junk = query.judged[difficulty]
    panels = [("query", framed(image_of(query), ASKED))]
    for row in ranked_N[~np.isin(ranked_N, junk)][:NUM_NEAREST].tolist():
        right = row in positives
        title = f"{'right' if right else 'wrong'}, cosine {cosines_N[row]:.2f}"
        panels.append((title, framed(read_image(found.database[row]), RIGHT if right else WRONG)))
    return Example(key=f"{query.path.parent.name}/{query.path.name}", panels=tuple(panels))
