"""nginx (Debian: `apt-get install nginx-light`) over a folder, configured by the very file that users are given."""

import os
import re
from pathlib import Path
from typing import Self

from loopback import free_ports
from processes import ServerProcess, answers, program

EXAMPLE = Path(__file__).parents[2] / "examples" / "nginx.conf"
READY_SECONDS = 30.0
STARTS = 3  # a free port may be taken before the server has it

# Everything that nginx writes lies in its folder. One process, so that none is left to init when it is killed. `user`:
# the tests may be root, whose files `nobody` cannot read.
AROUND = """\
daemon off;
master_process off;
{user}
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    include {folder}/server.conf;
}}
"""


def no_nginx() -> str:
    """Why nginx cannot be used here; empty when it can."""
    return "" if program("nginx") else "nginx is not installed, HTTP is NOT tested with it: apt-get install nginx-light"


def example(root: Path, port: int) -> str:
    """examples/nginx.conf with the two lines set that users are asked to set."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for name, value in (("listen", f"127.0.0.1:{port}"), ("root", f'"{root}"')):
        text, found = re.subn(rf"(?m)^( *){name} [^;]+;", rf"\g<1>{name} {value};", text)
        assert found == 1, f"{EXAMPLE.name}: {found} lines `{name}`"
    return text


class Nginx:
    """Serves `root` read-only on 127.0.0.1; `folder` holds its configuration, log and temporary files."""

    def __init__(self, root: Path, folder: Path):
        self.root = root
        self.folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        nginx = program("nginx")
        assert nginx, no_nginx()
        self.folder.mkdir(parents=True)
        config = self.folder / "nginx.conf"
        config.write_text(
            AROUND.format(folder=self.folder, user="user root;" if os.geteuid() == 0 else ""), encoding="utf-8"
        )
        for start in range(STARTS):
            (self._port,) = free_ports(1)
            (self.folder / "server.conf").write_text(example(self.root, self._port), encoding="utf-8")
            command = [nginx, "-e", "stderr", "-p", str(self.folder), "-c", str(config)]
            self._process = ServerProcess(command, self.folder, {})
            try:
                self._process.wait_until(lambda: answers(self._port, "HEAD") is not None, READY_SECONDS)
                break
            except RuntimeError:
                if start == STARTS - 1:
                    raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
