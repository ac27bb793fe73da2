"""What a report shows, as plain frozen data. Strings are untrusted: `report.py` escapes them all.

A score is a fraction in [0, 1] where `percent` is true and shown times 100; else it is shown as it is. NaN or None is
shown as a dash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .break_even import BreakEven
from .pictures import Pixels
from .report_sheets import ExampleSheet, Leakage, NeighbourSheet


@dataclass(frozen=True, slots=True)
class Score:
    """A value and, where known, the ends of its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`go` None means undecided; `line` is the sentence after GO / NO-GO; `rule` says what had to hold."""

    go: bool | None
    line: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedData:
    """The data the student was judged on; `split_rule` says how train and test were told apart."""

    name: str
    num_train: int
    num_test: int
    split_rule: str
    num_classes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One row of a table of scores: share and gap closed as fractions, gain in the unit of the score.

    Where less is better, share is teacher over student and gain is what the score fell by: more of both is better.
    """

    probe: str
    metric: str
    teacher: Score
    student: Score
    untrained: Score | None = None
    share: float | None = None
    gap_closed: float | None = None
    gain: Score | None = None
    percent: bool = True
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSection:
    """The tasks of one kind: `kind` is the heading, and names the published results that are shown beside them."""

    kind: str
    rows: tuple[ProbeResult, ...]
    sheets: tuple[ExampleSheet, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """One objective ("token", "feature", "patch", "total") at some steps; both sequences have one length."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchCurve:
    """A probe of the student while it was trained: its score at some steps."""

    probe: str
    steps: Sequence[int]
    values: Sequence[float]
    percent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Probes over training steps; `warning` is the sentence that was said, "" for none, `warned_at` the step."""

    curves: tuple[WatchCurve, ...]
    warning: str = ""
    warned_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedScores:
    """One probe of one encoder over the table's seeds; `mean` carries the t-interval."""

    probe: str
    encoder: str
    scores: tuple[float, ...]
    mean: Score
    percent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTable:
    """Scores per seed; every row has one score per seed, in this order."""

    seeds: tuple[int, ...]
    rows: tuple[SeedScores, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureRow:
    """One view: its pixels uint8 [h, w, 3] and one PCA map uint8 [rows, columns, 3] per encoder."""

    key: str
    view: int
    pixels: Pixels
    maps: tuple[Pixels, ...]
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSheet:
    """Example views; `encoders` names the maps of every row, in order.

    The page recolours the maps of the others to match the first one's (`match_colours`) and says so.
    """

    encoders: tuple[str, ...]
    rows: tuple[PictureRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """One column of the store; `codec` and `bytes_per_token` only for features."""

    name: str
    num_bytes: int
    bytes_per_token: float | None = None
    codec: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A sample that was left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """The store the student was trained from; `path` is shown as given."""

    path: str
    store_id: str
    format_version: str
    num_samples: int
    num_blocks: int
    num_views: int
    content_digest: str
    columns: tuple[ColumnFacts, ...]
    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePoint:
    """One candidate codec: bits a dimension and bytes a token on disk, and how near its tokens are to the teacher's."""

    choice: str
    bits: float
    bytes_per_token: float
    snr_db: float
    leading_db: float
    """The same along the principal axes that hold the first half of all variance."""
    cosine: float
    bound_db: float
    """The SNR that no code of these bits could exceed, were the tokens Gaussian with their measured covariance."""

    @property
    def short_db(self) -> float:
        """How far below the bound it is; less than nothing where the tokens are easier than Gaussian ones."""
        return self.bound_db - self.snr_db


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecChoice:
    """What `codec: auto` chose for one level, from what and why; `dropped` says what other candidates said."""

    teacher: str
    level: str
    choice: str
    why: str
    curve: tuple[RatePoint, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFacts:
    """A frozen encoder by name and by hashes."""

    name: str
    model: str
    weights_hash: str
    preprocessing: str
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFacts:
    """The student and how it was trained."""

    model: str
    num_params: int
    num_steps: int
    images_per_s: float | None
    checkpoint_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One line of the ledger; `once` = paid once per store, not again for the next student.

    `num_images` counts views where a stage handles views. `note` is for "skipped: already there" and the like.
    """

    name: str
    seconds: float
    num_images: int | None = None
    once: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything on the page. What is None or empty has no section."""

    title: str
    run_name: str
    verdict: Verdict
    judged: JudgedData | None
    """None when there was no probe; then `probes` is empty."""
    probes: tuple[ProbeResult, ...]
    tasks: tuple[TaskSection, ...] = ()
    curves: tuple[LossCurve, ...] = ()
    watch: Watch | None = None
    seeds: SeedTable | None = None
    neighbours: NeighbourSheet | None = None
    pictures: PictureSheet | None = None
    leakage: Leakage | None = None
    store: StoreFacts | None = None
    codecs: tuple[CodecChoice, ...] = ()
    teachers: tuple[TeacherFacts, ...] = ()
    student: StudentFacts | None = None
    costs: tuple[StageCost, ...] = ()
    num_students: int = 1
    """How many the costs are of that are not paid once."""
    break_even: BreakEven | str = ""
    """When the store has paid for itself; or why that could not be measured; "" leaves it out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    config_text: str = ""
    created: str = ""
