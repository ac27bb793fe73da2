"""A folder over HTTP in threads of our own, where nginx is not installed: GET, HEAD and one byte range."""

import re
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loopback import Handler, LoopbackServer

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class StaticServer(LoopbackServer):
    """Serves `root` read-only, with the answers of nginx: 403 for a folder, 404, 405, 416, ETag and Last-Modified."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        super().__init__(StaticHandler)


def wanted(header: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) that a Range header names; None: none of them is there."""
    match = RANGE.fullmatch(header)
    if not match or match.groups() == ("", ""):
        return (0, size)  # nothing that we understand: the whole object, as RFC 9110 has it
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else None
    start, stop = int(first), min(int(last) + 1, size) if last else size
    return (start, stop) if start < stop else None


class StaticHandler(Handler):
    server: StaticServer

    def do_GET(self) -> None:
        path = (self.server.root / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(self.server.root) or path.is_dir():
            self._say(HTTPStatus.FORBIDDEN)
        elif not path.is_file():
            self._say(HTTPStatus.NOT_FOUND)
        else:
            self._object(path)

    do_HEAD = do_GET

    def _refused(self) -> None:
        self.close_connection = True  # its body is not read
        self._say(HTTPStatus.METHOD_NOT_ALLOWED)

    do_PUT = do_POST = do_DELETE = do_PROPFIND = _refused

    def _object(self, path: Path) -> None:
        with open(path, "rb") as file:
            held = file.read()
        status = path.stat()
        e_tag = f'"{int(status.st_mtime):x}-{len(held):x}"'
        headers = {"ETag": e_tag, "Last-Modified": formatdate(status.st_mtime, usegmt=True), "Accept-Ranges": "bytes"}
        if self.headers.get("If-Match", e_tag) not in (e_tag, "*"):
            self._say(HTTPStatus.PRECONDITION_FAILED)
            return
        if self.headers.get("If-None-Match") in (e_tag, "*"):
            self._say(HTTPStatus.NOT_MODIFIED, headers)
            return
        asked = self.headers.get("Range")
        found = wanted(asked, len(held)) if asked else (0, len(held))
        if found is None:
            self._say(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{len(held)}"})
            return
        start, stop = found
        if asked and RANGE.fullmatch(asked):
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(held)}"
            self._say(HTTPStatus.PARTIAL_CONTENT, headers, held[start:stop])
        else:
            self._say(HTTPStatus.OK, headers, held)

    def _say(self, status: HTTPStatus, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
