"""Fixtures that several folders share."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from nginx import Nginx, no_nginx
from seaweedfs import Bucket, SeaweedFS, no_seaweedfs
from static_server import StaticServer

from stillhouse.stage1_extract.testing import taught_store as make_taught_store
from stillhouse.stage1_extract.testing import tiny_store
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.testing import Forks, run_here, tiny_pipeline

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # a test does not fail because something else runs beside it


@pytest.fixture(scope="session")
def sealed_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """28 images in 4 blocks, two views of 32 pixels, teacher `tiny`, sealed. Shared: do not write to it."""
    return tiny_store(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def taught_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`sealed_store` with two more teachers, `fine` and `scorer`. Shared: do not write to it."""
    return make_taught_store(tmp_path_factory.mktemp("taught"))


@pytest.fixture
def copy_store(sealed_store: Store, tmp_path: Path) -> Callable[[], Store]:
    """A copy of `sealed_store` that a test may write to."""

    def copy() -> Store:
        shutil.copytree(sealed_store.root, tmp_path / "store")
        return Store.open(tmp_path / "store")

    return copy


@pytest.fixture(scope="session")
def random_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A sealed `StoreShape()` of random numbers; needs no torch. Shared: do not write to it."""
    return make_store(tmp_path_factory.mktemp("random") / "store", StoreShape())


@pytest.fixture
def own_store(random_store: Store, tmp_path: Path) -> Store:
    """A copy of `random_store` that a test may damage."""
    shutil.copytree(random_store.root, tmp_path / "own")
    return Store.open(tmp_path / "own")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a tiny pipeline; give each use an `out` of its own."""
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def finished(pipeline: Path) -> Path:
    """`out` of the tiny pipeline after an undisturbed run. Shared: do not write to it."""
    ended = run_here("run", pipeline)
    assert ended.status == 0, ended.err
    return pipeline.parent / "out"


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that a test may damage: `out=<it>` goes on from there."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Commands as processes of their own."""
    with Forks(tmp_path_factory.mktemp("forks")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server, started by the first test that asks."""
    if why := no_seaweedfs():
        pytest.skip(why)
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def bucket(seaweedfs: SeaweedFS) -> Iterator[Bucket]:
    """A bucket of one's own."""
    with seaweedfs.bucket() as fresh:
        yield fresh


@pytest.fixture(params=["static", "nginx"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Serves a folder over HTTP, read-only, and returns the URL: once by `StaticServer`, once by nginx."""
    if request.param == "nginx" and (why := no_nginx()):
        pytest.skip(why)
    with contextlib.ExitStack() as servers:

        def start(root: Path) -> str:
            if request.param == "static":
                return servers.enter_context(StaticServer(root)).url
            return servers.enter_context(Nginx(root, tmp_path / "nginx")).url

        yield start
