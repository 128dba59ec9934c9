from __future__ import annotations

import gzip
import hashlib
import http.server
import re
import resource
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastgan.data import fetch as fetch_module
from fastgan.data import load
from fastgan.data.fetch import REMOTES, FetchError, Remote, cache_root, fetch
from fastgan.data.idx import read_idx

NAMES = list(REMOTES["mnist"].files)


class Server:
    """A mirror on this machine; `content` maps paths to what it answers."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = outer.content.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if outer.cut else body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def tiny(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Replace MNIST by a few images on the local mirror /b, with /a a mirror that has nothing."""
    images = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2)) + bytes(range(8))
    labels = bytes((0, 0, 8, 1, 0, 0, 0, 2, 7, 3))
    files = {name: gzip.compress(images if "images" in name else labels) for name in NAMES}
    remote = replace(
        REMOTES["mnist"],
        mirrors=(f"{server.url}/a", f"{server.url}/b"),
        files={name: hashlib.sha256(body).hexdigest() for name, body in files.items()},
    )
    monkeypatch.setitem(fetch_module.REMOTES, "mnist", remote)
    monkeypatch.setenv("FASTGAN_DATA", str(tmp_path / "cache"))
    server.content = {f"/b/{name}": body for name, body in files.items()}
    return files


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_second_mirror_serves(tiny: dict[str, bytes], server: Server, tmp_path: Path) -> None:
    folder = fetch("mnist", tmp_path / "root")
    assert folder == tmp_path / "root" / "mnist"
    assert listing(folder) == sorted(NAMES)
    for name, body in tiny.items():
        assert (folder / name).read_bytes() == body
        assert (folder / name).stat().st_mode & 0o777 == 0o644
    assert len(server.asked) == 8


def test_what_is_there_is_kept(tiny: dict[str, bytes], server: Server) -> None:
    folder = fetch("mnist")
    assert folder == cache_root() / "mnist"
    server.asked.clear()
    fetch("mnist")
    assert server.asked == []
    (folder / NAMES[0]).write_bytes(b"damaged")
    (folder / NAMES[1]).unlink()
    (folder / NAMES[1].removesuffix(".gz")).write_bytes(b"unpacked by hand")
    fetch("mnist")
    assert server.asked == [f"/a/{NAMES[0]}", f"/b/{NAMES[0]}"]
    assert (folder / NAMES[0]).read_bytes() == tiny[NAMES[0]]


@pytest.mark.parametrize("wrong", ["same size", "shorter", "longer"])
def test_bad_content(tiny: dict[str, bytes], server: Server, wrong: str) -> None:
    body = tiny[NAMES[2]]
    server.content[f"/b/{NAMES[2]}"] = {
        "same size": body[:-1] + bytes([body[-1] ^ 1]),
        "shorter": body[:-1],
        "longer": body + bytes(5_000_000),
    }[wrong]
    with pytest.raises(FetchError) as caught:
        fetch("mnist")
    message = str(caught.value)
    assert f'invalid hash value (expected "{hashlib.sha256(body).hexdigest()}"' in message
    assert f"{server.url}/a/{NAMES[2]}: HTTPError: HTTP Error 404" in message
    assert listing(cache_root() / "mnist") == sorted(NAMES[:2])


def test_partial_download_leaves_no_file(tiny: dict[str, bytes], server: Server) -> None:
    server.cut = True
    with pytest.raises(FetchError, match=r"invalid hash value|IncompleteRead"):
        fetch("mnist")
    assert listing(cache_root() / "mnist") == []


def test_no_server_says_where_to_put_what(tiny: dict[str, bytes], server: Server) -> None:
    server.close()
    with pytest.raises(FetchError) as caught:
        fetch("mnist", timeout=5)
    message = str(caught.value)
    assert "could not download mnist" in message
    assert "Connection refused" in message
    for name in NAMES:
        assert str(cache_root() / "mnist" / name) in message
    assert listing(cache_root() / "mnist") == []


def test_no_answer_times_out(tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        remote = replace(REMOTES["mnist"], mirrors=(url,))
        monkeypatch.setitem(fetch_module.REMOTES, "mnist", remote)
        with pytest.raises(FetchError, match="timed out"):
            fetch("mnist", timeout=0.2)


def test_full_disk(tiny: dict[str, bytes]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fetch("mnist")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not isinstance(caught.value, FetchError)
    assert listing(cache_root() / "mnist") == []


def test_unwritable_root(tiny: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"choose another folder with root or \$FASTGAN"):
        fetch("mnist", tmp_path / "file")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'fashion_mnist' \(did you mean 'fashion-mnist'\?\)"):
        fetch("fashion_mnist", tmp_path)


def test_load_fetches_when_first_used(tiny: dict[str, bytes], server: Server) -> None:
    dataset = load("mnist")
    assert dataset.images.shape == (2, 1, 2, 2)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7, 3]
    assert dataset.name == "mnist"
    assert dataset.classes == tuple("0123456789")
    assert len(load("mnist", split="test")) == 2
    server.asked.clear()
    load("mnist", image_size=4)
    assert server.asked == []


def test_load_takes_files_put_there_by_hand(tiny: dict[str, bytes], server: Server) -> None:
    server.close()
    folder = cache_root() / "mnist"
    folder.mkdir(parents=True)
    (folder / NAMES[0]).write_bytes(tiny[NAMES[0]])
    with pytest.raises(FileNotFoundError, match="labels of the train split are missing"):
        load("mnist")
    (folder / NAMES[1]).write_bytes(tiny[NAMES[1]])
    assert len(load("mnist")) == 2
    with pytest.raises(FetchError, match="by hand"):
        load("mnist", split="test")


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTGAN_DATA", "~/sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / "sets"
    monkeypatch.delenv("FASTGAN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg/fastgan/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / ".cache/fastgan/data"


@pytest.mark.parametrize("name", sorted(REMOTES))
def test_table_is_whole(name: str) -> None:
    remote: Remote = REMOTES[name]
    assert list(remote.files) == NAMES
    assert len(set(remote.files.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in remote.files.values())
    assert len(remote.classes) == 10
    assert len(remote.mirrors) >= 2


@pytest.mark.parametrize("name", sorted(REMOTES))
def test_fetched_files_are_read(name: str) -> None:
    folder = cache_root() / name
    if not all((folder / file).is_file() for file in NAMES):
        pytest.skip(f"{name} is not in the cache (fastgan data fetch {name})")
    shapes = [read_idx(folder / file).shape for file in NAMES]
    assert shapes == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
