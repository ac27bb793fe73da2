"""The store against a model of it: any order of writing, dying, reading, sealing, damage, repair and collection.

The model is three sets: units decided, units damaged, units sealed. After every step the store must say just that.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage import commit, layout
from stillhouse.storage.collect import collect
from stillhouse.storage.records import Record, read_record
from stillhouse.storage.seal import content_digest, latest_seal, seal
from stillhouse.storage.store import Store
from stillhouse.storage.testing import (
    LEVELS,
    StoreShape,
    flip_bit,
    make_store,
    write_codecs,
    write_features,
    write_images,
    write_view,
)
from stillhouse.storage.verify import forget, verify

SHAPE = StoreShape(blocks=(("train", 2), ("test", 1)), bad_rows=frozenset({(0, 1)}), teachers={"tiny": "int8"})
IMAGES = ["images/000000", "images/000001"]
UNITS = [*IMAGES, "codecs/tiny", "views/000/000000", "views/001/000000"]
UNITS += ["features/tiny/000/000000", "features/tiny/001/000000"]


class Died(Exception):
    """Stands for the end of a process."""


def needs(unit: str) -> set[str]:
    """What must be there before a unit can be made."""
    kind = unit.split("/")[0]
    return {"images": set(), "codecs": set(), "views": {IMAGES[0]}, "features": {IMAGES[0], "codecs/tiny"}}[kind]


def write(store: Store, unit: str) -> None:
    match unit.split("/"):
        case ["images", block]:
            write_images(store, SHAPE, int(block))
        case ["codecs", teacher]:
            write_codecs(store, SHAPE, teacher)
        case ["views", view, block]:
            write_view(store, SHAPE, int(view), int(block))
        case ["features", teacher, view, block]:
            write_features(store, SHAPE, teacher, int(view), int(block))


def read(store: Store, unit: str) -> list[bytes]:
    """What a reader gets of a unit."""
    match unit.split("/"):
        case ["images", block]:
            good = store.good_rows(int(block))
            return [repr(list(store.samples(int(block)))).encode(), *(store.image_bytes(int(block), r) for r in good)]
        case ["codecs", teacher]:
            return [array.tobytes() for level in LEVELS for array in store.codec(teacher, level).arrays().values()]
        case ["views", view, block]:
            return [store.view_params(int(view), int(block)).tobytes(), store.view_hashes(int(view), 0).tobytes()]
        case ["features", teacher, view, block]:
            return [store.features(teacher, level).read(int(view), int(block)).tobytes() for level in LEVELS]
    raise ValueError(unit)


class StoreModel(RuleBasedStateMachine):
    """One store, and what should be in it."""

    honest: dict[str, list[bytes]]
    digests: dict[str, Record]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stillhouse-model-"))
        whole = make_store(self.folder / "whole", SHAPE)
        self.honest = {unit: read(whole, unit) for unit in UNITS}
        self.digest = content_digest([e for u in ["layout", *UNITS] for e in whole.require(u, u).objects])
        self.store = Store.create(self.folder / "store", SHAPE.spec, SHAPE.plan)
        self.store.add_teacher(SHAPE.teacher("tiny"))
        self.decided: set[str] = set()
        self.damaged: dict[str, tuple[Path, int]] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def can_write(self, unit: str) -> bool:
        return needs(unit) <= self.decided - self.damaged.keys()

    @rule(unit=st.sampled_from(UNITS))
    def write(self, unit: str) -> None:
        """Also what is there already: the first one stays."""
        if self.can_write(unit):
            before = read_record(self.store.root, unit)
            write(self.store, unit)
            self.decided.add(unit)
            assert before is None or read_record(self.store.root, unit) == before

    @rule(unit=st.sampled_from(UNITS), phase=st.sampled_from(["write_synced", "decide", "publish"]))
    def die(self, unit: str, phase: str) -> None:
        """A process dies while it stages, before it decides, or after it decided and before it published."""
        if not self.can_write(unit):
            return

        def dies(*_: object) -> None:
            raise Died

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(commit, phase, dies)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nor does it tidy up
            with pytest.raises(Died):
                write(self.store, unit)
        if phase == "publish":
            self.decided.add(unit)
            self.store.done(unit)  # whoever comes next publishes what was decided

    @rule()
    def reopen(self) -> None:
        self.store = Store.open(self.store.root)

    @rule()
    def seal(self) -> None:
        sealed = seal(self.store)
        decided = [e for unit in ["layout", *self.decided] for e in self.store.require(unit, unit).objects]
        assert set(sealed.objects) == set(decided)
        if self.decided == set(UNITS):
            assert sealed.content_sha256 == self.digest, "whatever happened on the way"

    @precondition(lambda self: self.decided - self.damaged.keys())
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from(sorted(self.decided - self.damaged.keys())))
        record = read_record(self.store.root, unit)
        assert record is not None
        path = self.store.root / data.draw(st.sampled_from(record.objects)).path
        bit = data.draw(st.integers(0, path.stat().st_size * 8 - 1))
        flip_bit(path, bit)
        self.damaged[unit] = (path, bit)

    @precondition(lambda self: self.damaged)
    @rule(data=st.data())
    def heal(self, data: st.DataObject) -> None:
        """The file is restored from a copy."""
        path, bit = self.damaged.pop(data.draw(st.sampled_from(sorted(self.damaged))))
        flip_bit(path, bit)

    @precondition(lambda self: self.damaged)
    @rule(data=st.data())
    def repair(self, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from(sorted(self.damaged)))
        if needs(unit) & self.damaged.keys():
            return
        forget(self.store, unit)
        assert not self.store.done(unit)
        self.store = Store.open(self.store.root)
        write(self.store, unit)
        del self.damaged[unit]

    @rule()
    def collect(self) -> None:
        """Of any age: no process is at work."""
        collect(self.store, older_than_s=0)
        left = self.store.root / layout.STAGE
        assert not left.exists() or not any(left.iterdir())

    @invariant()
    def readers_get_what_was_written_or_an_error(self) -> None:
        if not hasattr(self, "store"):
            return
        store = Store.open(self.store.root)
        for unit in UNITS:
            if needs(unit) & self.damaged.keys():
                continue
            if unit not in self.decided:
                with pytest.raises(MissingError):
                    read(store, unit)
            elif unit not in self.damaged:
                assert read(store, unit) == self.honest[unit]
            else:
                try:
                    assert read(store, unit) == self.honest[unit], "what no reader looks at, such as a tar's padding"
                except (CorruptError, MissingError):
                    pass

    @invariant()
    def verify_names_what_is_damaged_and_nothing_else(self) -> None:
        if hasattr(self, "store"):
            found = {problem.unit for problem in verify(Store.open(self.store.root)).problems} - {"seal"}
            assert found == self.damaged.keys()

    @invariant()
    def seals_only_grow(self) -> None:
        if hasattr(self, "store"):
            sealed = latest_seal(self.store.root)
            generation = sealed.generation if sealed else 0
            assert generation >= getattr(self, "generation", 0)
            self.generation = generation


TestStoreModel = pytest.mark.timeout(600)(StoreModel.TestCase)
TestStoreModel.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


class LongStoreModel(StoreModel):
    """The same with other draws every time."""


TestLongStoreModel = pytest.mark.slow(LongStoreModel.TestCase)
TestLongStoreModel.settings = settings(
    max_examples=500, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
