"""Cards: what is told of a store is so, the same for every copy, and nothing of a store is obeyed."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stillhouse.core.errors import EXIT_OK, EXIT_USAGE, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.cards.croissant import croissant
from stillhouse.storage.cards.facts import facts_of
from stillhouse.storage.cards.readme import plain, readme, size_category
from stillhouse.storage.remote.opening import Reach
from stillhouse.storage.seal import latest_seal, seal
from stillhouse.storage.sharing.pull import pull
from stillhouse.storage.sharing.selection import Selection
from stillhouse.storage.specs import TeacherSpec
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.testing import run_here


def code_of(text: str) -> str:
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8"])
def test_the_lines_of_the_readme_read_the_store(tmp_path: Path, codec: str) -> None:
    store = make_store(tmp_path / "store", StoreShape(teachers={"tiny": codec}))
    code = code_of(readme(facts_of(store), {})).replace("STORE", str(store.root))
    found: dict[str, Any] = {"print": lambda *_: None}
    exec(code, found)  # noqa: S102 - our own page
    level = "cls"
    wanted = store.codec("tiny", level).decode(store.features("tiny", level).read(0, 0, [0]))[0]
    np.testing.assert_array_equal(found["tokens"], wanted)


def test_what_is_told(random_store: Store) -> None:
    sealed = latest_seal(random_store.root)
    assert sealed is not None
    text = readme(facts_of(random_store, "CC BY 4.0"), {"tiny": {"knn": 0.5}})
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    for told in (
        "# Features of 9 images: tiny, tiny-int8",
        "| images | 7 train, 2 test, in 3 blocks |",
        "| left out | 1 ",
        "| views | 2 of each training image, 8 x 8 pixels |",
        f"| weights (sha256) | `{random_store.teacher('tiny').weights_sha256}` |",
        "| patch | 4 x 6 | fp16 | ",
        "From the store alone (`stillhouse eval --stored`): knn 0.500.",
        f"--expect sha256:{sealed.root_sha256}",
        f"content sha256 {sealed.content_sha256}",
        "**Mind:** teacher 'tiny' names no licence",
    ):
        assert told in text, told
    assert "**Mind:** no licence is stated for the images" not in text
    assert "**Mind:** no licence is stated for the images" in readme(facts_of(random_store), {})
    assert str(random_store.root) not in text


def test_a_copy_has_the_same_card(random_store: Store, tmp_path: Path) -> None:
    shutil.copytree(random_store.root, tmp_path / "copy")
    ours, theirs = facts_of(random_store), facts_of(Store.open(tmp_path / "copy"))
    assert readme(ours, {}) == readme(theirs, {}) and croissant(ours, b"a", b"b") == croissant(theirs, b"a", b"b")


def test_a_part_tells_what_it_is_of(random_store: Store, tmp_path: Path) -> None:
    pull(str(random_store.root), tmp_path / "part", Selection(views=1), Reach(), Reporter(quiet=True))
    sealed = latest_seal(random_store.root)
    assert sealed is not None
    assert f"Taken (views 1) from store {{id}} with content {sealed.content_sha256}".split("{id}")[1] in readme(
        facts_of(Store.open(tmp_path / "part")), {}
    )


def test_a_store_that_was_never_sealed(tmp_path: Path) -> None:
    shape = StoreShape()
    with pytest.raises(UsageError, match="was never sealed"):
        facts_of(Store.create(tmp_path / "store", shape.spec, shape.plan))


HOSTILE = "](http://evil) <script>alert(1)</script> `rm` | x\n---\nlicense: mit\n# Title *bold* \x1b[31m"


def test_names_and_notices_are_quoted(tmp_path: Path) -> None:
    shape = StoreShape(teachers={"tiny": "fp16"})
    honest = make_store(tmp_path / "honest", shape)
    spec = honest.teacher("tiny")
    told = spec.model_dump() | {"model": HOSTILE, "licence": HOSTILE, "notice": f"````\n{HOSTILE}"}
    lied = TeacherSpec.model_validate(told)
    store = Store.create(tmp_path / "store", shape.spec, shape.plan)
    store.add_teacher(lied)
    make_like(store, shape)
    text = readme(facts_of(store, HOSTILE), {})
    outside = re.sub(r"````text\n.*?\n````", "", text, flags=re.DOTALL)
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert "<script>" not in outside.replace(r"\<script\>", "") and "](http" not in outside.replace(r"\](http", "")
    assert "\x1b" not in outside and "\n# Title" not in outside
    assert text.count("````") == 2
    described = json.dumps(croissant(facts_of(store, HOSTILE), b"", b""))
    assert json.loads(described)["license"] == HOSTILE.strip()


def make_like(store: Store, shape: StoreShape) -> None:
    """The units of a shape, for the teacher that is there."""
    from stillhouse.storage.testing import write_missing

    class Lied(StoreShape):
        def teacher(self, name: str) -> TeacherSpec:
            return store.teacher(name)

    write_missing(store, Lied(teachers=shape.teachers))
    seal(store)


def test_plain() -> None:
    assert plain("a_b-c.d 1/2") == "a_b-c.d 1/2"
    assert plain("a\nb\t c") == "a b c"
    assert plain("a|b") == r"a\|b"
    assert [size_category(num) for num in (999, 1000, 10**7)] == ["n<1K", "1K<n<10K", "n>10M"]


# --- Croissant -------------------------------------------------------------------------------------------------------


def ids_in(tree: Any, key: str = "@id") -> Iterator[str]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key and isinstance(value, str):
                yield value
            elif name != "@context":
                yield from ids_in(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from ids_in(value, key)


def test_croissant_holds_together(random_store: Store) -> None:
    facts = facts_of(random_store, "MIT")
    card = (random_store.root / layout.CARD).read_bytes()
    sealed = (random_store.root / layout.seal_path(facts.sealed.generation)).read_bytes()
    found = croissant(facts, card, sealed)
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0" and found["license"] == "mit"
    defined = [one["@id"] for one in found["distribution"]] + ["samples"]
    defined += [field["@id"] for field in found["recordSet"][0]["field"]]
    assert len(defined) == len(set(defined)) and set(ids_in(found)) <= set(defined)
    for one in found["distribution"]:
        if one["@type"] == "cr:FileObject":
            data = (random_store.root / one["contentUrl"]).read_bytes()
            assert (one["sha256"], one["contentSize"]) == (hashlib.sha256(data).hexdigest(), f"{len(data)} B")
        else:
            assert list(random_store.root.glob(one["includes"])), one
    columns = {field["source"]["extract"]["column"] for field in found["recordSet"][0]["field"]}
    import pyarrow.parquet

    assert columns <= set(pyarrow.parquet.read_schema(random_store.root / layout.index_path(0)).names)


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb(finished: Path, pipeline: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished / "store", store)
    ended = run_here("card", store, "--json")
    assert ended.status == EXIT_OK and "mind: no licence is stated for the images" in ended.err
    assert (tmp_path / "store.card" / "README.md").is_file() and run_here("verify", store).status == EXIT_OK
    assert run_here("eval", pipeline, "--stored", f"out={tmp_path / 'out'}", f"store={store}").status == EXIT_OK
    ended = run_here("card", store, "--scores", tmp_path / "out" / "eval", "--to", tmp_path / "c", "--licence", "MIT")
    assert ended.status == EXIT_OK and "for the images" not in ended.err
    text = (tmp_path / "c" / "README.md").read_text()
    assert re.search(r"From the store alone .*: knn \d\.\d{3}, linear", text)
    assert "not measured" not in text and "| fp16 | " in text
    ended = run_here("card", store, "--scores", tmp_path)
    assert ended.status == EXIT_USAGE and "has no scores of this store's teachers" in ended.err


def test_scores_of_another_store(finished: Path, pipeline: Path, tmp_path: Path) -> None:
    assert (
        run_here("eval", pipeline, "--stored", f"out={tmp_path / 'out'}", f"store={finished / 'store'}").status
        == EXIT_OK
    )
    part = tmp_path / "part"
    assert run_here("pull", finished / "store", part, "--blocks", "1:").status == EXIT_OK
    ended = run_here("card", part, "--scores", tmp_path / "out" / "eval")
    assert ended.status == EXIT_USAGE and "is of other features than store" in ended.err
