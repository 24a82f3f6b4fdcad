"""Downloads at the same time, cut short, and into folders that cannot be written to."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffflow_edu import download
from diffflow_edu.download import DataError, Remote, fetch

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /whole, its first half without a length at /half. asked: the paths."""

    def __init__(self, together=1):
        self.asked = []
        self.together = threading.Barrier(together)
        super().__init__(("127.0.0.1", 0), Answer)

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2]
        self.send_response(200)
        self.end_headers()  # no length: the end of the connection is the end of the file
        self.wfile.write(content[:1000])
        self.server.together.wait(60)  # nobody is done before all have begun
        self.wfile.write(content[1000:])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """A function that starts a server for so many downloads at a time."""
    monkeypatch.delenv("DIFFFLOW_EDU_DATA", raising=False)
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    started = []

    def start(together=1):
        server = Server(together)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def remote(url, *mirrors):
    checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    return Remote("set/pictures", url, checksum, "100 kB", mirrors)


def test_threads_that_want_one_file_all_get_it(serve, tmp_path, monkeypatch):
    # The process id is no help: threads share it, and so may containers that share a home.
    monkeypatch.setattr("os.getpid", lambda: 7)
    server = serve(together=3)
    wanted = remote(server.url("whole"))
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(fetch, [wanted] * 3))
    assert set(paths) == {tmp_path / "cache" / "set" / "pictures"}
    assert paths[0].read_bytes() == CONTENT
    assert [file.name for file in paths[0].parent.iterdir()] == ["pictures"]
    assert server.asked == ["/whole"] * 3
    fetch(wanted)
    assert len(server.asked) == 3  # from the cache


def test_a_download_cut_short_without_a_length_is_tried_at_the_mirror(serve):
    server = serve()
    path = fetch(remote(server.url("half"), server.url("whole")))
    assert path.read_bytes() == CONTENT and server.asked == ["/half", "/whole"]
    assert path.with_name("pictures.bad").read_bytes() == CONTENT[: len(CONTENT) // 2]


def test_a_download_that_is_wrong_everywhere_is_kept_aside_and_never_over_another(serve, tmp_path):
    server = serve()
    for name in ("pictures.bad", "pictures-2.bad"):
        with pytest.raises(
            DataError, match=rf"not the published set/pictures.*{name}\. Call again"
        ):
            fetch(remote(server.url("half")))
    folder = tmp_path / "cache" / "set"
    assert sorted(p.name for p in folder.iterdir()) == ["pictures-2.bad", "pictures.bad"]


def test_a_cached_file_that_is_not_the_published_one_is_replaced(serve, tmp_path):
    path = tmp_path / "cache" / "set" / "pictures"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    assert fetch(remote(serve().url("whole"))).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_to_is_named_with_the_way_around_it(serve, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be written to.*any folder that DIFFFLOW_EDU_DATA"):
        fetch(remote(serve().url("whole")))


def test_a_server_that_is_not_there_is_said_with_its_mirrors(serve):
    server = serve()
    gone = server.url("whole").replace(str(server.server_port), "9")  # the discard port
    with pytest.raises(DataError, match=f"could not be downloaded from {gone} or from {gone}"):
        fetch(remote(gone, gone))
