"""What is asked for of a store, and what that is."""

from typing import Any

import pytest

from stillhouse.core.errors import UsageError
from stillhouse.storage.sharing.selection import Selection, choose
from stillhouse.storage.store import Store

BOTH = ("cls", "patch")


@pytest.mark.parametrize(
    ("asked", "num_views", "blocks", "levels"),
    [
        ({}, 2, (0, 1, 2), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"views": 1}, 1, (0, 1, 2), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"columns": ["cls"]}, 2, (0, 1, 2), {"tiny": ("cls",), "tiny-int8": ("cls",)}),
        ({"columns": ["tiny"]}, 2, (0, 1, 2), {"tiny": BOTH}),
        ({"columns": ["tiny/patch", "tiny-int8/cls"]}, 2, (0, 1, 2), {"tiny": ("patch",), "tiny-int8": ("cls",)}),
        ({"columns": ["tiny/patch", "cls"]}, 2, (0, 1, 2), {"tiny": BOTH, "tiny-int8": ("cls",)}),
        ({"columns": []}, 2, (0, 1, 2), {}),
        ({"blocks": "1:"}, 2, (1, 2), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"blocks": ":1"}, 2, (0,), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"blocks": "1:2", "split": "train"}, 2, (1,), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"split": "test"}, 2, (2,), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"share": 0.5}, 2, (0, 2), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"share": 1.0}, 2, (0, 1, 2), {"tiny": BOTH, "tiny-int8": BOTH}),
        ({"share": 0.001, "split": "train"}, 2, (0,), {"tiny": BOTH, "tiny-int8": BOTH}),
    ],
)
def test_what_is_chosen(
    random_store: Store, asked: dict[str, Any], num_views: int, blocks: tuple[int, ...], levels: dict[str, Any]
) -> None:
    found = choose(random_store, Selection(**asked))
    assert (found.num_views, found.blocks, dict(found.levels)) == (num_views, blocks, levels)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"views": 3}, "3 views were asked for; ask for 1 to 2"),
        ({"views": 0}, "0 views were asked for; ask for 1 to 2"),
        (
            {"columns": ["clss"]},
            "there is no column 'clss'; columns: tiny/cls, tiny/patch, tiny-int8/cls, tiny-int8/patch",
        ),
        ({"columns": ["tiny/logits"]}, "there is no column 'tiny/logits'"),
        ({"columns": ["big/cls"]}, "there is no column 'big/cls'"),
        ({"blocks": "2"}, r"blocks '2' were asked for; write first:last, within 0:3"),
        ({"blocks": "2:4"}, "within 0:3"),
        ({"blocks": "2:1"}, "within 0:3"),
        ({"blocks": "-1:2"}, "within 0:3"),
        ({"split": "val"}, "there is no split 'val'; splits: train, test"),
        ({"split": "test", "blocks": "0:1"}, "no block is in all that was asked for"),
        ({"share": 0.0}, "a share of 0 was asked for"),
        ({"share": 1.5}, "a share of 1.5 was asked for"),
    ],
)
def test_what_a_store_has_not(random_store: Store, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        choose(random_store, Selection(**asked))


def test_how_it_is_told() -> None:
    assert Selection().told() == "all of it" and Selection().is_everything
    assert Selection(views=2, columns=("cls",)).told() == "views 2, columns ['cls']"
