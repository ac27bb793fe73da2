"""One team publishes a store, another trains from it: the verbs, end to end, over real servers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from seaweedfs import Bucket

from stillhouse.core.errors import EXIT_CORRUPT, EXIT_OK, EXIT_USAGE
from stillhouse.storage.seal import latest_seal, read_seal
from stillhouse.storage.store import Store
from stillhouse.testing import run_here


@pytest.fixture
def theirs(pipeline: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The config of a team that got a store: neither images nor teacher are in it."""

    def write(store: str) -> Path:
        whole = yaml.safe_load(pipeline.read_text())
        kept = {"name": "theirs", "out": str(tmp_path / "theirs"), "store": store, "distill": whole["distill"]}
        kept["remote"] = {"cache": str(tmp_path / "cache")}
        path = tmp_path / "theirs.yaml"
        path.write_text(yaml.safe_dump(kept))
        return path

    return write


def test_training_from_a_url_is_training_from_the_folder(
    finished: Path, serve: Callable[[Path], str], theirs: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same weights to the last bit, from a config that says nothing of images and teachers."""
    ended = run_here("distill", theirs(f"{serve(finished)}/store"))
    assert ended.status == EXIT_OK, ended.err
    weights = "students/student-seed0/student/model.safetensors"
    assert (tmp_path / "theirs" / weights).read_bytes() == (finished / weights).read_bytes()


def test_what_needs_images_or_the_teacher_says_so(
    finished: Path, theirs: Callable[[str], Path], serve: Callable[[Path], str]
) -> None:
    config = theirs(f"{serve(finished)}/store")
    ended = run_here("run", config)
    assert ended.status == EXIT_USAGE and "is required and not given (and 2 more)" in ended.err
    assert run_here("distill", config).status == EXIT_OK
    ended = run_here("eval", config)
    assert ended.status == EXIT_USAGE
    assert "not in `teachers`: none are there; add it: a student is judged beside its teacher" in ended.err
    ended = run_here("distill", config, "distill.teacher=other")
    assert ended.status == EXIT_USAGE and "teachers in it: tiny" in ended.err


def test_a_store_at_a_url_is_only_read(pipeline: Path, tmp_path: Path) -> None:
    for verb in ("ingest", "repair"):
        ended = run_here(verb, pipeline, f"out={tmp_path}", "store=https://host/store")
        assert ended.status == EXIT_USAGE and "https://host/store is only read" in ended.err


def test_verify_and_inspect_take_a_url(finished: Path, serve: Callable[[Path], str], tmp_path: Path) -> None:
    url, cache = f"{serve(finished)}/store", f"cache={tmp_path / 'cache'}"
    sealed = latest_seal(finished / "store")
    assert sealed is not None
    pin = f"sha256:{sealed.root_sha256}"
    here, there = (
        run_here("inspect", finished / "store", "--json").json(),
        run_here("inspect", url, cache, "--json").json(),
    )
    assert there == here | {"store": url} and there["sealed"]["pin"] == pin
    ended = run_here("verify", url, cache, "--expect", pin)
    assert ended.status == EXIT_OK and f"whole: {sealed.num_objects} objects" in ended.err
    ended = run_here("verify", url, cache, "--expect", pin[:-1] + ("0" if pin[-1] != "0" else "1"))
    assert ended.status == EXIT_CORRUPT and f"has seal {pin}, expected" in ended.err
    ended = run_here("verify", url, cache, "--pixels")
    assert ended.status == EXIT_USAGE and "pull" in ended.err


def test_push_pull_and_train(
    finished: Path,
    bucket: Bucket,
    theirs: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_key)
    url, access = f"s3://{bucket.name}/team/store", [f"endpoint={bucket.endpoint}", "region=us-east-1"]
    planned = run_here("push", finished / "store", url, *access, "--dry-run", "--json").json()
    pushed = run_here("push", finished / "store", url, *access, "--json").json()
    assert pushed["moved_bytes"] == planned["missing_bytes"] == pushed["bytes"]
    ended = run_here(
        "pull", url, tmp_path / "part", *access, "--views", "1", "--columns", "cls", "--expect", pushed["pin"]
    )
    assert ended.status == EXIT_OK, ended.err
    shown = run_here("inspect", tmp_path / "part").out.splitlines()
    assert shown[-1].startswith("origin      views 1, columns ['cls'] of store ")
    remote = [f"remote.{setting}" for setting in access]
    ended = run_here("distill", theirs(url), *remote, f"remote.expect={pushed['pin']}")
    assert ended.status == EXIT_OK, ended.err
    ended = run_here(
        "distill", theirs(str(tmp_path / "part")), f"out={tmp_path / 'cls'}", "distill.objectives={token: 1.0}"
    )
    assert ended.status == EXIT_OK, ended.err


def test_a_team_adds_its_own_teacher_from_the_stored_images_alone(
    finished: Path, pipeline: Path, tmp_path: Path
) -> None:
    """And more views; the images' source is gone. Who opened the store before reads it as it was."""
    store = tmp_path / "store"
    assert run_here("pull", finished / "store", store).status == EXIT_OK
    before, was = Store.open(store), latest_seal(store)
    assert was is not None
    config = yaml.safe_load(pipeline.read_text())
    config["ingest"]["source"]["path"] = str(tmp_path / "gone")
    config["teachers"] = [{**config["teachers"][0], "name": "ours", "codec": "int8"}, config["teachers"][0]]
    config |= {"out": str(tmp_path / "out"), "store": str(store)}
    config["views"]["num"] = 3
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text(yaml.safe_dump(config))
    ended = run_here("extract", theirs)
    assert ended.status == EXIT_OK, ended.err
    found = Store.open(store)
    assert [teacher.name for teacher in found.teachers()] == ["ours", "tiny"] and found.spec.num_views == 3
    assert run_here("verify", store).status == EXIT_OK
    assert read_seal(store, was.generation) == was
    for entry in was.objects:
        if not entry.path.endswith("/zarr.json"):
            assert (store / entry.path).read_bytes() == (finished / "store" / entry.path).read_bytes()
    assert before.spec.num_views == 2 and before.features("tiny", "cls").read(1, 0).shape[0] == 8
    ended = run_here("distill", theirs, "distill.teacher=ours", "distill.name=ours", "distill.epochs=1")
    assert ended.status == EXIT_OK, ended.err
