"""Reports to test with: the least there can be, and one with every part."""

import dataclasses
import math

import numpy as np

from stillhouse.eval.break_even import BreakEven
from stillhouse.eval.pictures import pca_rgb
from stillhouse.eval.report_data import (
    CodecChoice,
    ColumnFacts,
    JudgedData,
    LossCurve,
    PictureRow,
    PictureSheet,
    ProbeResult,
    Quarantined,
    RatePoint,
    ReportData,
    Score,
    SeedScores,
    SeedTable,
    StageCost,
    StoreFacts,
    StudentFacts,
    TaskSection,
    TeacherFacts,
    Verdict,
    Watch,
    WatchCurve,
)
from stillhouse.eval.report_sheets import (
    ExampleRow,
    ExampleSheet,
    Leakage,
    LeakPair,
    Neighbour,
    NeighbourRow,
    NeighbourSheet,
    Panel,
)


def probe(name: str, teacher: float, student: float, untrained: float) -> ProbeResult:
    return ProbeResult(
        probe=name,
        metric="mean per class",
        teacher=Score(teacher, teacher - 0.01, teacher + 0.01),
        student=Score(student, student - 0.02, student + 0.02),
        untrained=Score(untrained),
        share=student / teacher,
        gap_closed=(student - untrained) / (teacher - untrained),
        gain=Score(student - untrained, student - untrained - 0.03, student - untrained + 0.03),
    )


DEPTH = ProbeResult(
    probe="depth",
    metric="RMSE in m",
    teacher=Score(0.3),
    student=Score(0.4, 0.39, 0.41),
    untrained=Score(0.9),
    share=0.75,
    gap_closed=5 / 6,
    gain=Score(0.5, 0.45, 0.55),
    percent=False,
    higher_is_better=False,
)


def minimal(word: str = "word") -> ReportData:
    return ReportData(
        title=word,
        run_name=word,
        verdict=Verdict(go=None, line=word, rule=word),
        judged=JudgedData(name=word, num_train=1600, num_test=400, split_rule=word),
        probes=(ProbeResult(probe=word, metric=word, teacher=Score(0.9), student=Score(math.nan)),),
    )


def full(word: str = "word") -> ReportData:
    """Every part filled, with `word` wherever a string goes."""
    rng = np.random.default_rng(0)
    maps = pca_rgb([rng.normal(size=(16, 8)) for _ in range(2)], [(4, 4)] * 2)
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    panel = Panel(title=word, pixels=pixels)

    def near(word: str) -> Neighbour:
        return Neighbour(key=word, label=word, similarity=0.9, right=True, pixels=pixels)

    return dataclasses.replace(
        minimal(word),
        verdict=Verdict(go=True, line=word, rule=word),
        probes=(probe(word, 0.934, 0.871, 0.412), probe("linear", 0.962, 0.918, 0.533), probe("10", 0.5, 0.99, 0.1)),
        tasks=(
            TaskSection(
                kind="segmentation",
                note=word,
                rows=(probe(word, 0.473, 0.418, 0.1), probe("B", 0.3, 0.2, 0.1)),
                sheets=(ExampleSheet(task=word, rows=(ExampleRow(key=word, strips=((word, (panel, panel)),)),)),),
            ),
            TaskSection(kind=word, rows=(DEPTH, dataclasses.replace(DEPTH, probe=word, percent=True))),
        ),
        watch=Watch(curves=(WatchCurve(probe=word, steps=[0, 20], values=[0.3, 0.5]),), warning=word, warned_at=20),
        neighbours=NeighbourSheet(
            encoders=("teacher", word),
            rows=(NeighbourRow(key=word, label=word, pixels=pixels, neighbours=((near(word), near(word)),) * 2),),
            num_train=1600,
        ),
        leakage=Leakage(
            lines=(word, "no copies"),
            warnings=(word,),
            pairs=(LeakPair(test_key=word, train_key=word, how=word, test=pixels, train=pixels),),
            num_pairs=12,
        ),
        curves=(LossCurve(name=word, steps=[0, 10], values=[2.0, 1.0]), LossCurve(name="x", steps=[], values=[])),
        seeds=SeedTable(
            seeds=(0, 1), rows=(SeedScores(probe=word, encoder=word, scores=(0.86, 0.88), mean=Score(0.87, 0.74, 1)),)
        ),
        pictures=PictureSheet(
            encoders=("teacher", word),
            rows=tuple(PictureRow(key=word, view=1, pixels=pixels, maps=(one, one), label=word) for one in maps),
        ),
        store=StoreFacts(
            path=word,
            store_id=word,
            format_version=word,
            num_samples=2000,
            num_blocks=16,
            num_views=5,
            content_digest=word,
            columns=(
                ColumnFacts(name=word, num_bytes=39_200_768, bytes_per_token=80.0, codec=word),
                ColumnFacts(name="images", num_bytes=999),
            ),
            quarantined=(Quarantined(key=word, reason=word),),
        ),
        codecs=(
            CodecChoice(
                teacher=word,
                level=word,
                choice=word,
                why=word,
                curve=(
                    RatePoint(
                        choice=word,
                        bits=1.2,
                        bytes_per_token=57.6,
                        snr_db=9.87,
                        leading_db=13.21,
                        cosine=0.98765,
                        bound_db=11.21,
                    ),
                    RatePoint(
                        choice="x", bits=16.1, bytes_per_token=772.8, snr_db=71, leading_db=72, cosine=1, bound_db=99
                    ),
                ),
                dropped={word: word},
            ),
        ),
        teachers=(
            TeacherFacts(name=word, model=f"dinov2 {word}", weights_hash=word, preprocessing=word, licence=word),
        ),
        student=StudentFacts(
            model=word, num_params=5_526_346, num_steps=6000, images_per_s=412.3, checkpoint_digest=word
        ),
        costs=(
            StageCost(name=word, seconds=186.4, num_images=10_000, once=True, note=word),
            StageCost(name="eval", seconds=0.0),
        ),
        break_even=BreakEven(once_s=100.0, student_s=50.0, student_images=32_000, teacher_rate=800.0),
        environment={word: word},
        config_text=word,
        created=word,
    )
