"""Against a terminal that the test plays: what it answers decides, and what it is sent is read."""

from __future__ import annotations

import io
import os
import select
import struct
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from fastgan.engine.preview import terminal_preview

pytest.importorskip("textual_image", reason="textual-image is not installed")
pty, fcntl, termios = (
    pytest.importorskip(name, reason="pseudo-terminals are POSIX")
    for name in ("pty", "fcntl", "termios")
)

ROOT = Path(__file__).resolve().parents[2]
ATTRIBUTES = b"\x1b[c"  # asked for; Sixel is the 4 of the answer
SIXEL, SIXELS = b"\x1b[?62;4c", b"\x1bP"
PLAIN = b"\x1b[?62;22c\x1b_Gi=1;ENOTSUP\x1b\\"  # nor Kitty's protocol, which is asked for next
SHOW = """
import sys
from pathlib import Path
from PIL import Image
from textual_image import _terminal
read = _terminal.read
_terminal.read = lambda file, count, timeout: read(file, count, 20)  # a busy machine's answer
from fastgan.engine.log import default_reporter
Image.new("RGB", (64, 64), (200, 30, 30)).save(sys.argv[1])
reporter = default_reporter()
reporter.start(10, 0)
reporter.picture(Path(sys.argv[1]))
reporter.note("shown")
reporter.stop()
"""


def sent(path: Path, attributes: bytes, size: tuple[int, ...] = (40, 100, 1000, 800)) -> bytes:
    """What a program sends to a terminal that answers a question for its attributes so.

    `size` is in rows, columns, and pixels.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ["TERM"] = "xterm-256color"
        time.sleep(0.2)  # until the terminal has its size
        os.execv(sys.executable, [sys.executable, "-c", SHOW, str(path)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", *size))
    out, asked = b"", 0
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            got = os.read(terminal, 65536)
        except OSError:  # it has ended
            break
        if not got:
            break
        out += got
        while out.count(ATTRIBUTES) > asked:
            asked += 1
            os.write(terminal, attributes)
    os.waitpid(pid, 0)
    os.close(terminal)
    return out


def test_a_terminal_with_sixel_shows_the_samples(tmp_path: Path) -> None:
    out = sent(tmp_path / "samples.png", SIXEL)
    assert SIXELS in out
    assert b"shown" in out


def test_a_terminal_that_knows_no_size_of_its_own_is_no_error(tmp_path: Path) -> None:
    assert b"shown" in sent(tmp_path / "samples.png", SIXEL, (0, 0, 0, 0))


def test_a_terminal_without_graphics_gets_none(tmp_path: Path) -> None:
    out = sent(tmp_path / "samples.png", PLAIN)
    assert SIXELS not in out
    assert b"\xe2\x96\x80" not in out  # nor half blocks
    assert b"shown" in out


def test_without_a_terminal_to_ask_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "__stdin__", nothing)
        assert terminal_preview(Console(file=io.StringIO())) is None
    monkeypatch.setattr(sys, "__stdin__", None)
    assert terminal_preview(Console(file=io.StringIO())) is None
