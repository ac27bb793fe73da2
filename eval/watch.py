"""A cheap probe of a student that is being trained: kNN on a fixed draw of labelled images, their plain middle.

Fitted and judged on the split that probes are fitted on, so that nobody stops or tunes a run by the images it is to be
judged on. What it gives back and warns of is written beside the loss by `stage2_distill/watch.py`.

Legend: N images.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

from .config import EvalConfig, WatchConfig
from .features import LabelledRows, classes_of, encode_images, labelled_rows, middle_pixels
from .knn import KnnConfig, KnnProbe
from .parts import drawn, taken
from .probe import Features
from .subjects import Subject
from .transfer import Point, noise_of, warning

K = 20
JUDGED = 0.25
"""Share of the drawn images that is judged; the others are their neighbours."""


class KnnWatch:
    """Looks at encoders by the kNN probe; images are rendered at the first look and kept in memory.

    Args:
        store: whose labelled images are drawn from.
    """

    def __init__(self, store: Store, config: EvalConfig) -> None:
        self._store, self._config = store, config
        self._watch = config.watch or WatchConfig()
        given = config.knn or KnnConfig()
        self._probe = KnnProbe(KnnConfig(ks=(K,), report_k=K, temperature=given.temperature))

    @property
    def steps(self) -> int:
        """Training steps from one look to the next."""
        return self._watch.steps

    @cached_property
    def parts(self) -> tuple[LabelledRows, LabelledRows]:
        """The neighbours, and the images that are judged: the first ones in the order of a hash of their keys.

        Raises:
            UsageError: too few labelled images.
        """
        rows = labelled_rows(self._store, self._config.train)
        order_N = np.argsort(drawn(rows, self._config.seed, "eval.watch"), kind="stable")[: self._watch.images]
        num = int(len(order_N) * JUDGED)
        if num == 0:
            message = f"eval.watch has {len(order_N)} labelled images of store {self._store.name} to look by"
            raise UsageError(message, hint="label more of them, or set eval.watch: null")
        return taken(rows, order_N[num:]), taken(rows, order_N[:num])

    @cached_property
    def _pixels(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        bank, judged = (middle_pixels(self._store, part, self._config.threads) for part in self.parts)
        return bank, judged

    def look(self, encoder: Encoder, sees: Preprocessing) -> Mapping[str, float]:
        """The score by the metric of the config, its noise, and of how many images it is."""
        subject, num_classes = Subject("student", encoder, sees, ""), len(classes_of(self._store))

        def encoded(rows: LabelledRows, pixels: npt.NDArray[np.uint8]) -> Features:
            return encode_images(subject, pixels, rows.labels_N, num_classes, self._config)

        bank, judged = (encoded(*pair) for pair in zip(self.parts, self._pixels, strict=True))
        result = self._probe.run(bank, judged)
        noise = noise_of(result.predictions, judged.labels, self._config.metric)
        score = result.scores[self._config.metric]
        return {"knn": score, "noise": noise, "fitted": len(bank), "judged": len(judged)}

    def warning(self, lines: Sequence[Mapping[str, Any]]) -> str | None:
        """The rule of `transfer.py`, on the looks by as many images as the last one."""
        same = [line for line in lines if all(line[name] == lines[-1][name] for name in ("fitted", "judged"))]
        return warning([Point(line["step"], line["loss"], line["knn"], line["noise"]) for line in same])

    def enough(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Never: who watches by this warns, and leaves the rest to people."""
        return False
