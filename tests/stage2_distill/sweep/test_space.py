"""The points of a sweep: their order, their texts, and what cannot be varied."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.config import load_config, parse_config
from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.sweep.config import Range, SweepConfig
from stillhouse.stage2_distill.sweep.space import Trial, edges, grid, short_names, shown, text_of


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    trials = grid({"distill.lr": [1e-3, 1e-2], "distill.batch": [8, 16, 32]})
    assert [trial.number for trial in trials] == list(range(6))
    assert [tuple(trial.values.values()) for trial in trials] == [
        (1e-3, 8),
        (1e-3, 16),
        (1e-3, 32),
        (1e-2, 8),
        (1e-2, 16),
        (1e-2, 32),
    ]
    assert trials[4].overrides == ["distill.lr=0.01", "distill.batch=16"]


def test_edges_hold_every_value_once_or_more() -> None:
    found = list(edges({"a": [1, 2], "b": [3, 4, 5]}))
    assert found == [{"a": 1, "b": 3}, {"a": 2, "b": 3}, {"a": 1, "b": 4}, {"a": 1, "b": 5}]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6))
def test_an_override_reads_back_what_was_written(value: Any) -> None:
    from stillhouse.core.config import _parse_yaml

    text = text_of(value)
    assert "\n" not in text and _parse_yaml(text, "here") == value


def test_small_numbers_stay_numbers() -> None:
    assert text_of(1e-5) == "1.0e-05" and text_of(4) == "4" and text_of("raw") == "raw" and text_of(None) == "null"
    assert shown(0.013999405916225522) == "0.014" and shown(6) == "6" and shown({"token": 1}) == "{token: 1}"


def test_names_are_as_short_as_they_can_be() -> None:
    keys = ["distill.lr", "distill.student.model_args.depth", "distill.mask.ratio", "distill.student.ratio"]
    assert list(short_names(keys).values()) == ["lr", "depth", "mask.ratio", "student.ratio"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"space": {}}, "at least 1 item"),
        ({"space": {"views.num": [2, 5]}}, "all students of a sweep learn from one store"),
        ({"space": {"distill.seed": [0, 1]}}, "varied by `seeds`"),
        ({"space": {"distill.threads": [1, 2]}}, "says how a run goes"),
        ({"space": {"distill.name": ["a", "b"]}}, "says how a run goes"),
        ({"space": {"distill.lr": 1e-3}}, "give a list of values"),
        ({"space": {"distill.lr": []}}, "has no values"),
        ({"space": {"distill.lr": [0.1, 1e-1]}}, "has the value 0.1 twice"),
        ({"space": {"distill.lr": {"low": 0.1, "high": 0.2}}}, "only a study draws from"),
        ({"space": {"distill.lr": {"low": 0.2, "high": 0.1}}, "study": {"trials": 3}}, "is not below high"),
        ({"space": {"distill.lr": {"low": 0, "high": 1, "log": True}}, "study": {"trials": 3}}, "begins above 0"),
        ({"space": {"distill.lr": [1, 2]}, "study": {"trials": 3}, "together": 2}, "`together` is for grids"),
        ({"space": {"distill.lr": [1, 2]}, "name": "a/b"}, "a/b"),
    ],
)
def test_what_makes_no_sense_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(SweepConfig, section, where="config here")
    assert message in str(caught.value)


def test_ranges_keep_their_kind() -> None:
    space = {"distill.student.model_args.depth": {"low": 2, "high": 6}, "distill.lr": {"low": 1e-4, "high": 1}}
    config = parse_config(SweepConfig, {"space": space, "study": {"trials": 1}}, where="config here")
    depth, lr = config.space.values()
    assert isinstance(depth, Range) and isinstance(depth.low, int)
    assert isinstance(lr, Range) and isinstance(lr.low, float)


def test_a_trial_is_what_the_command_line_makes_of_it(pipeline: Any) -> None:
    from stillhouse.pipeline_config import PipelineConfig

    trial = Trial(0, {"distill.lr": 1e-5, "distill.objectives": {"token": 1.0}, "distill.student.model_args.depth": 3})
    config = load_config(PipelineConfig, pipeline, trial.overrides).distill
    assert config.lr == 1e-5 and config.objectives == {"token": 1.0} and config.student.model_args["depth"] == 3
