"""Commit: one winner, a crash at any point costs nothing, and full or read-only disks are told apart from bugs."""

import ast
import errno
import hashlib
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stillhouse.core.errors import CorruptError, MissingError, ResourceError
from stillhouse.storage.commit import Attempt, publish
from stillhouse.storage.disk import create_once, disk_errors, move_aside, names_in, publish_folder, replace_file
from stillhouse.storage.layout import STAGE, record_path
from stillhouse.storage.records import Record, read_record
from stillhouse.storage.signed_json import canonical_json, read_json, read_signed_json, signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit, write_features, write_view
from stillhouse.storage.verify import forget, verify

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534


class Crash(BaseException):
    """Ends an attempt the way a signal does: whoever cleans up may run, nobody may count on it."""


def crash(*_: object, **__: object) -> NoReturn:
    raise Crash


def files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def commit(root: Path, text: str = "payload", unit: str = "features/t/000/000000") -> Record:
    with Attempt(root, unit) as attempt:
        attempt.add("features/t/cls/c/0/0/0/0", [text.encode(), memoryview(b"!")])
        attempt.add("features/t/patch/c/0/0/0/0", [b"second"])
        return attempt.commit({"rows": 3})


UNIT = "features/t/000/000000"
OBJECTS = ("features/t/cls/c/0/0/0/0", "features/t/patch/c/0/0/0/0")


# --- create_once -----------------------------------------------------------------------------------------------------


def test_create_once_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    assert create_once(path, b"one")
    assert not create_once(path, b"two")
    assert path.read_bytes() == b"one"
    assert files_below(tmp_path) == {"deep/er/file"}


def test_eight_threads_have_one_winner(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / str(attempt) / "file"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i, path=path: create_once(path, b"%d" % i * 1000), range(8)))
        assert sum(won) == 1
        assert path.read_bytes() == b"%d" % won.index(True) * 1000
        assert files_below(path.parent) == {"file"}


RACE = """
import multiprocessing, sys
from pathlib import Path
from stillhouse.storage.disk import create_once

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
context = multiprocessing.get_context("fork")
start = context.Barrier(8)

def race(number):
    for turn in range(rounds):
        start.wait()
        if create_once(folder / str(turn), b"%d" % number):
            print(turn, number, flush=True)

workers = [context.Process(target=race, args=(number,)) for number in range(8)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
sys.exit(max(worker.exitcode for worker in workers))
"""


def test_eight_processes_have_one_winner(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path), "25"]
    won = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    results = sorted((int(turn), number) for turn, number in (line.split() for line in won))
    assert [turn for turn, _ in results] == list(range(25))
    assert [(tmp_path / str(turn)).read_text() for turn, _ in results] == [number for _, number in results]
    assert len(files_below(tmp_path)) == 25


def test_replace_file_replaces(tmp_path: Path) -> None:
    replace_file(tmp_path / "a" / "file", b"one")
    replace_file(tmp_path / "a" / "file", b"two")
    assert (tmp_path / "a" / "file").read_bytes() == b"two"
    assert files_below(tmp_path) == {"a/file"}


def test_a_crash_in_replace_file_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Crash):
        replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_folders_and_files_move(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "file").write_bytes(b"x")
    publish_folder(tmp_path / "stage", tmp_path / "a" / "final")
    move_aside(tmp_path / "a" / "final" / "file", tmp_path / "b" / "aside")
    assert files_below(tmp_path) == {"b/aside"}


# --- attempts --------------------------------------------------------------------------------------------------------


def test_commit_publishes_what_the_record_says(tmp_path: Path) -> None:
    record = commit(tmp_path)
    assert record == read_record(tmp_path, UNIT)
    assert record.facts == {"rows": 3} and record.unit == UNIT
    for entry, content in zip(record.objects, (b"payload!", b"second"), strict=True):
        assert (tmp_path / entry.path).read_bytes() == content
        assert (entry.num_bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert files_below(tmp_path) == {*OBJECTS, record_path(UNIT)}
    assert list((tmp_path / STAGE).iterdir()) == []


def test_the_second_attempt_loses_and_changes_nothing(tmp_path: Path) -> None:
    first = commit(tmp_path, "first")
    before = {path: (tmp_path / path).read_bytes() for path in files_below(tmp_path)}
    assert commit(tmp_path, "other") == first
    assert {path: (tmp_path / path).read_bytes() for path in files_below(tmp_path)} == before
    assert list((tmp_path / STAGE).iterdir()) == []


def test_racing_attempts_agree(tmp_path: Path) -> None:
    for turn in range(10):
        root = tmp_path / str(turn)
        with ThreadPoolExecutor(8) as pool:
            records = list(pool.map(lambda i, root=root: commit(root, f"attempt {i}"), range(8)))
        assert len({record.attempt for record in records}) == 1
        entry = records[0].objects[0]
        assert hashlib.sha256((root / entry.path).read_bytes()).hexdigest() == entry.sha256
        assert list((root / STAGE).iterdir()) == []


def test_nothing_is_visible_or_left_when_an_attempt_fails(tmp_path: Path) -> None:
    with pytest.raises(Crash), Attempt(tmp_path, UNIT) as attempt:
        attempt.add(OBJECTS[0], [b"staged"])
        raise Crash
    assert files_below(tmp_path) == set() and list((tmp_path / STAGE).iterdir()) == []


def test_a_failing_source_of_bytes_is_not_a_disk_error(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"x"
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), Attempt(tmp_path, UNIT) as attempt:
        attempt.add(OBJECTS[0], chunks())


def crash_on(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Let the `call`-th use of an os function (counted from 0) crash, and all after it."""
    real: Callable[..., Any] = getattr(os, name)
    calls = iter(range(1 << 20))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= call:
            raise Crash
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, counted)


CRASHES = [("link", 0), ("rename", 0), ("rename", 1), ("fsync", 0), ("fsync", 2), ("fsync", 5), ("fsync", 6)]


@pytest.mark.parametrize(("name", "call"), CRASHES)
@pytest.mark.parametrize("killed", [False, True], ids=["unwound", "killed"])
def test_a_crash_anywhere_is_finished_or_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int, killed: bool
) -> None:
    """After kill -9 nothing cleans up; after a signal's exception the `with` does. Both must be mendable."""
    with monkeypatch.context() as patch:
        crash_on(patch, name, call)
        if killed:
            patch.setattr(Attempt, "__exit__", lambda *_: None)
        with pytest.raises(Crash):
            commit(tmp_path, "crashed")
    decided = read_record(tmp_path, UNIT)
    if decided is not None:
        publish(tmp_path, decided)
        publish(tmp_path, decided)  # and once more does no harm
        assert (tmp_path / OBJECTS[0]).read_bytes() == b"crashed!"
        assert list((tmp_path / STAGE).iterdir()) == []
    else:
        assert not (tmp_path / OBJECTS[0]).exists()
    again = commit(tmp_path, "again")
    assert (decided or again) == again
    assert [(tmp_path / e.path).stat().st_size for e in again.objects] == [e.num_bytes for e in again.objects]


def test_crashes_fall_on_both_sides_of_the_decision(tmp_path: Path) -> None:
    """The list above is worth something only while it has both kinds."""
    decided = []
    for number, (name, call) in enumerate(CRASHES):
        with pytest.MonkeyPatch.context() as patch:
            crash_on(patch, name, call)
            with pytest.raises(Crash):
                commit(tmp_path / str(number))
        decided.append(read_record(tmp_path / str(number), UNIT) is not None)
    assert decided == [False, True, True, False, False, True, True]


def test_store_done_finishes_a_decided_unit(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, before = StoreShape(), verify(own_store)
    steps: dict[str, Callable[[Store], None]] = {
        "features/tiny/001/000001": lambda store: write_features(store, shape, "tiny", 1, 1),
        "views/001/000001": lambda store: write_view(store, shape, 1, 1),
    }
    for unit, write in steps.items():
        forget(own_store, unit)
        for entry in own_store.require(unit, "it").objects:
            (own_store.root / entry.path).unlink()
        store = Store.open(own_store.root)
        assert not store.done(unit)
        with monkeypatch.context() as patch:
            crash_on(patch, "rename", 1)
            with pytest.raises(Crash):
                write(store)
        assert len(verify(store).problems) == 1, "decided, and one of two objects is published"
        assert store.done(unit)
        assert verify(store).problems == ()
    assert verify(own_store).content_sha256 == before.content_sha256


def test_decided_and_gone_is_missing(tmp_path: Path) -> None:
    record = commit(tmp_path)
    (tmp_path / OBJECTS[1]).unlink()
    with pytest.raises(MissingError) as caught:
        publish(tmp_path, record)
    assert str(caught.value) == (
        f"{OBJECTS[1]} of unit {UNIT} is neither published nor staged; run `stillhouse verify {tmp_path}`"
    )
    (tmp_path / OBJECTS[1]).write_bytes(b"seco")
    with pytest.raises(MissingError):
        publish(tmp_path, record)


def test_a_vanished_record_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.storage.redo.create_once", lambda path, data: True)
    with pytest.raises(MissingError, match="vanished; is something else deleting files"):
        commit(tmp_path)


# --- records ---------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    record = commit(tmp_path)
    path = tmp_path / record_path(UNIT)
    for bit in range(path.stat().st_size * 8):
        flip_bit(path, bit)
        with pytest.raises(CorruptError, match=str(path)) as caught:
            read_record(tmp_path, UNIT)
        assert caught.value.hint == f"run `stillhouse verify {tmp_path}`"
        flip_bit(path, bit)
    assert read_record(tmp_path, UNIT) == record


def test_every_truncation_of_a_record_is_found(tmp_path: Path) -> None:
    record = commit(tmp_path)
    path = tmp_path / record_path(UNIT)
    clean = path.read_bytes()
    for kept in reversed(range(len(clean))):  # the newline at the end too
        os.truncate(path, kept)
        with pytest.raises(CorruptError, match=str(path)):
            read_record(tmp_path, UNIT)
    path.write_bytes(clean)
    assert read_record(tmp_path, UNIT) == record


def test_a_record_of_another_unit_is_found(tmp_path: Path) -> None:
    commit(tmp_path)
    other = tmp_path / record_path("features/t/001/000000")
    other.parent.mkdir(parents=True)
    other.write_bytes((tmp_path / record_path(UNIT)).read_bytes())
    with pytest.raises(CorruptError, match="is about 'features/t/000/000000'"):
        read_record(tmp_path, "features/t/001/000000")


GOOD: dict[str, Any] = {
    "unit": UNIT,
    "attempt": "0" * 32,
    "objects": [{"path": OBJECTS[0], "bytes": 1, "sha256": "0"}],
    "facts": {},
}


def crafted(**changes: Any) -> dict[str, Any]:
    return GOOD | changes


@pytest.mark.parametrize(
    "body",
    [
        crafted(attempt="../../x"),
        crafted(attempt=7),
        crafted(objects=[{"path": "../outside", "bytes": 1, "sha256": "0"}]),
        crafted(objects=[{"path": "/etc/passwd", "bytes": 1, "sha256": "0"}]),
        crafted(objects=[{"path": "features/../../x", "bytes": 1, "sha256": "0"}]),
        crafted(objects=[{"path": "features/.hidden", "bytes": 1, "sha256": "0"}]),
        crafted(objects=[{"path": "_log/spec.json", "bytes": 1, "sha256": "0"}]),
        crafted(objects=[{"path": "features/x"}]),
        crafted(objects=7),
        {"unit": UNIT},
    ],
)
def test_crafted_records_are_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    """Signed, so not damage: a stranger's store. Nothing of it may reach paths outside."""
    create_once(tmp_path / record_path(UNIT), signed_json(body))
    with pytest.raises(CorruptError):
        read_record(tmp_path, UNIT)


def test_the_uncrafted_record_is_fine(tmp_path: Path) -> None:
    create_once(tmp_path / record_path(UNIT), signed_json(GOOD))
    assert read_record(tmp_path, UNIT) is not None


@pytest.mark.parametrize(
    "text",
    ["[1]", "", "null", '{"a": NaN}', '{"a": "\\ud800"}', '{"a":' * 100_000, "\xff", '{"a": 1' + "0" * 5000 + "}"],
)
def test_json_that_we_never_write_is_corrupt(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptError, match=r"file.json .*do this"):
        read_signed_json(tmp_path / "file.json", "do this")


def test_large_json_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "file.json", "wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(CorruptError, match="larger than 67108864 bytes"):
        read_json(tmp_path / "file.json")


def test_no_json_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"{}")
    assert read_json(tmp_path / "none.json") is None
    assert read_json(tmp_path / "file" / "below.json") is None


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no space left while writing /store/x; free some space and run again"),
        (errno.EDQUOT, "no space left while writing /store/x; free some space and run again"),
        (errno.EROFS, f"/store/x: Read-only file system (as uid {os.getuid()}); use a place you may write"),
        (errno.EACCES, f"/store/x: Permission denied (as uid {os.getuid()}); use a place you may write"),
        (errno.EIO, "/store/x: the disk reported an input/output error; check the disk"),
    ],
)
def test_disk_errors_name_the_path(number: int, text: str) -> None:
    with pytest.raises(ResourceError) as caught, disk_errors("/store/x"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == text
    with pytest.raises(ResourceError, match="/other"), disk_errors("/store/x"):
        raise OSError(number, os.strerror(number), "/other")


def test_disk_errors_name_what_a_person_knows() -> None:
    with pytest.raises(ResourceError) as caught, disk_errors(Path("/store/x.json")):
        raise OSError(errno.EACCES, "Permission denied", "/store/.x.json.0123456789abcdef")
    assert str(caught.value).startswith("/store/x.json: Permission denied (as uid ")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EMFILE, "/store/x: Too many open files; raise the limit: `ulimit -n`"),
        (errno.ESTALE, "/store/x: the disk reported an input/output error (Stale file handle); check the disk"),
    ],
)
def test_what_else_a_disk_or_system_may_say(number: int, text: str) -> None:
    with pytest.raises(ResourceError) as caught, disk_errors(Path("/store/x")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == text


def test_a_folder_that_may_not_be_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    assert names_in(tmp_path) == ["a", "b"]
    assert names_in(tmp_path / "none") == names_in(tmp_path / "a") == []

    def refuse(_: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ResourceError, match=f"^{tmp_path}: Permission denied"):
        names_in(tmp_path)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Such as FAT: there is no deciding once on it, and a person with every right must not be told of rights."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ResourceError) as caught:
        commit(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / record_path(UNIT)}: its file system makes no hard links ({os.strerror(number)}); "
        "use another disk, such as ext4, xfs or NFS"
    )
    assert files_below(tmp_path) == set() and list((tmp_path / STAGE).iterdir()) == []


@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_what_could_not_be_synced_is_not_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """An object, its folder, the folder of attempts, the record's own bytes. Linux would call a second try a success."""
    real, calls = os.fsync, iter(range(1 << 20))

    def broken(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(ResourceError, match="input/output error"):
            commit(tmp_path)
    assert read_record(tmp_path, UNIT) is None and files_below(tmp_path) == set()


def test_other_os_errors_pass() -> None:
    with pytest.raises(FileNotFoundError), disk_errors("/store/x"):
        raise FileNotFoundError(errno.ENOENT, "none")


@pytest.mark.parametrize("point", ["write", "fsync", "link", "rename"])
def test_a_full_disk_at_any_point_leaves_a_store_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if point == "write":
            patch.setattr("stillhouse.storage.commit.write_synced", full)
        else:
            patch.setattr(os, point, full)
        with pytest.raises(ResourceError, match=f"no space left while writing {tmp_path}/"):
            commit(tmp_path)
    assert commit(tmp_path).unit == UNIT
    assert {*OBJECTS, record_path(UNIT)} == files_below(tmp_path)
    assert list((tmp_path / STAGE).iterdir()) == []


def _in_child(body: Callable[[], None]) -> str:
    """What `body` raises in a forked child, as text; the child ends without running anybody's clean-up."""
    read, write = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns of threads; the child starts none and ends at once
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        told = "nothing raised"
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
            told = f"{type(error).__name__}: {error}"
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def test_a_real_size_limit(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes write(2) itself fail, half-way through an object."""
    (tmp_path / STAGE).mkdir()

    def body() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        commit(tmp_path, "x" * 100_000)

    text = _in_child(body)
    path = tmp_path / OBJECTS[0]
    assert text == f"ResourceError: no space left while writing {path}; free some space and run again"
    assert files_below(tmp_path) == set()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else(tmp_path: Path, own_store: Store) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)

    def write() -> None:
        os.setuid(NOBODY)
        commit(tmp_path / "shared")

    def read() -> None:
        os.setuid(NOBODY)
        store = Store.open(own_store.root)
        assert len(store.codes("tiny", "patch", 0, 0, [0, 1])) == 2
        assert store.image_bytes(0, 0)

    assert _in_child(write) == (
        f"ResourceError: {tmp_path}/shared/_stage: Permission denied (as uid {NOBODY}); use a place you may write"
    )
    assert _in_child(read) == "nothing raised", "reading needs no right to write"
    shard = own_store.root / "features/tiny/patch/c/0/0/0/0"
    shard.chmod(0o600)
    assert _in_child(read) == f"ResourceError: {shard}: Permission denied (as uid {NOBODY}); use a place you may write"
    (own_store.root / "_log" / "spec.json").chmod(0o600)
    assert "spec.json: Permission denied" in _in_child(read)


# --- the rule --------------------------------------------------------------------------------------------------------


NAMING = {"rename", "renames", "replace", "link", "move", "symlink"}


def names_a_file(node: ast.AST) -> bool:
    """os.rename, shutil.move, Path.rename and their like, by attribute or imported by name."""
    if isinstance(node, ast.ImportFrom):
        return node.module in ("os", "shutil") and any(alias.name in NAMING for alias in node.names)
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return (owner in ("os", "shutil") and node.attr in NAMING) or node.attr in ("rename", "hardlink_to", "link_to")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
        return len(node.args) == 1 and not node.keywords  # Path.replace has one argument, str.replace two
    return False


def test_only_disk_and_commit_give_files_their_names() -> None:
    """Whatever renames or links lives in two files of storage, so that it is synced and atomic in one place."""
    folders = ("storage", "stage1_extract", "stage2_distill", "eval", "src")
    found = {
        f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}"
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if names_a_file(node)
    }
    assert {place.partition(":")[0] for place in found} == {"storage/disk.py", "storage/commit.py"}, found


def test_commit_syncs_before_it_decides(tmp_path: Path) -> None:
    """The order of system calls, as strace sees it: data and its folder, then the record's link, then the renames."""
    script = f"""
import os
from pathlib import Path
import stillhouse.storage.commit as commit
log = []
for name in ("fsync", "link", "rename"):
    def wrapped(*args, name=name, real=getattr(os, name)):
        log.append(name)
        return real(*args)
    setattr(os, name, wrapped)
with commit.Attempt(Path({str(tmp_path)!r}), "a/b") as attempt:
    attempt.add("x/one", [b"1"])
    attempt.commit({{}})
print(" ".join(log))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    #            object, its folder, _stage, the record's bytes, decide, its folder, publish, its folder
    assert done.stdout.split() == ["fsync", "fsync", "fsync", "fsync", "link", "fsync", "rename", "fsync"]


def test_a_file_that_has_no_room_for_its_last_piece_gets_no_name(tmp_path: Path) -> None:
    """The system writes what there is room for, and says so only by a count: a file must not be given its name short."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from stillhouse.storage.disk import arriving\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with arriving(Path(sys.argv[1])) as file:\n"
        "    file.write(bytes(1500))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "file"], capture_output=True, text=True, check=False
    )
    assert "no space left while writing" in ended.stderr
    assert list(tmp_path.iterdir()) == []
