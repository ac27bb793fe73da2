"""Examples of several subjects side by side: what they share once, strips where each has several of its own."""

import numpy as np

from stillhouse.eval.pictures import Pixels
from stillhouse.eval.report_sheets import ExampleRow, example_sheet
from stillhouse.eval.tasks.base import Example


def flat(value: int) -> Pixels:
    return np.full((2, 3, 3), value, np.uint8)


def titles(row: ExampleRow) -> list[tuple[str, list[str]]]:
    return [(subject, [panel.title for panel in panels]) for subject, panels in row.strips]


def test_predictions_stand_in_one_strip_behind_image_and_truth() -> None:
    shared = ("image", flat(0)), ("truth", flat(1))
    given = {
        subject: [Example(key=key, panels=(*shared, ("prediction", flat(value)))) for key in ("a", "b")]
        for subject, value in (("teacher", 2), ("student", 3))
    }
    sheet = example_sheet("ade", given)
    assert sheet.task == "ade" and [row.key for row in sheet.rows] == ["a", "b"]
    want = ["image", "truth", "teacher: prediction", "student: prediction"]
    assert titles(sheet.rows[0]) == [("", want)]
    assert [panel.pixels[0, 0, 0] for panel in sheet.rows[0].strips[0][1]] == [0, 1, 2, 3]


def test_neighbours_have_a_strip_for_each_subject() -> None:
    def near(first: int) -> Example:
        return Example(key="q", panels=(("query", flat(0)), ("1: right", flat(first)), ("2: wrong", flat(9 - first))))

    (row,) = example_sheet("oxford", {"teacher": [near(1)], "student": [near(2)]}).rows
    assert titles(row) == [(subject, ["query", "1: right", "2: wrong"]) for subject in ("teacher", "student")]


def test_one_subject_alone_and_a_key_that_another_lacks() -> None:
    one = Example(key="a", panels=(("image", flat(0)), ("prediction", flat(1))))
    assert titles(example_sheet("t", {"teacher": [one]}).rows[0]) == [("", ["image", "prediction"])]
    other = Example(key="b", panels=one.panels)
    assert [row.key for row in example_sheet("t", {"teacher": [one], "student": [other]}).rows] == ["a", "b"]
    assert example_sheet("t", {"teacher": [], "student": []}).rows == ()
