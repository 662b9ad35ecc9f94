"""Ways of asking a person: a page that only this machine can see, or the terminal."""

from __future__ import annotations

import html
import io
import secrets
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TextIO, final
from urllib.parse import parse_qs

import numpy as np

from stockpot.scores._base import Picture
from stockpot.scores.pictures import require_pillow
from stockpot.scores.questions import Question

__all__ = ["PageAsker", "TerminalAsker"]

_CHOICES = {"left": 1.0, "right": 0.0, "neither": 0.5, "stop": None}
_LONGEST_FORM = 1000
_WAIT_S = 20.0
_GOODBYE_S = 2.0

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Which is better?</title>
<style>body{font:1.1rem system-ui;margin:1rem auto;max-width:96vw;text-align:center}
form{display:flex;gap:1rem;justify-content:center;flex-wrap:wrap}
img{max-width:46vw;max-height:70vh;min-width:16rem;image-rendering:auto}
button{font:inherit;padding:.6rem 1.6rem;cursor:pointer}
.picture{padding:0;border:2px solid #888;background:none}</style>"""


@final
class PageAsker:
    """A page at an address that is printed, on this machine's loopback only.

    The address holds a secret, and requests under another host name are refused, so that neither
    other machines nor other pages in the same browser can answer.

    Args:
        tell: Is given the address, as a sentence.
        port: Where to listen; 0 takes any free one.

    Attributes:
        address: Of the page.
    """

    def __init__(self, tell: Callable[[str], None] | None = None, port: int = 0) -> None:
        self._secret = secrets.token_urlsafe(16)
        self._turn = threading.Condition()
        self._question: Question | None = None
        self._files: dict[str, bytes] = {}
        self._number = 0
        self._answer: float | None = None
        self._is_answered = False
        self._is_over = False
        self._said_goodbye = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._hosts = {f"{host}:{self._server.server_port}" for host in ("127.0.0.1", "localhost")}
        self.address = f"http://127.0.0.1:{self._server.server_port}/{self._secret}/"
        (tell or _print_to_stderr)(f"choose at {self.address}")

    def ask(self, question: Question) -> float | None:
        """Show a question and wait for the answer, however long it takes.

        Args:
            question: What to show.

        Returns:
            1 for the left one, 0 for the right one, 0.5 for neither; None to stop for now.
        """
        with self._turn:
            self._number += 1
            self._question = question
            self._files = {"left.png": _png(question.left), "right.png": _png(question.right)}
            self._is_answered = False
            self._turn.notify_all()
            # With a limit, so that Ctrl+C is heard.
            while not self._is_answered:
                self._turn.wait(0.5)
            return self._answer

    def close(self) -> None:
        """Say goodbye to the browser and stop listening."""
        with self._turn:
            self._is_over = True
            self._turn.notify_all()
        if self._number:
            self._said_goodbye.wait(_GOODBYE_S)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What requests do; they come in threads of their own.

    def _allowed(self, host: str, path: str) -> str | None:
        """What is asked for, behind the secret; None if the request has no business here."""
        _, secret, rest = (*path.partition("?")[0].split("/", 2), "", "")[:3]
        same = secrets.compare_digest(secret.encode(), self._secret.encode())
        return rest if same and host in self._hosts else None

    def _file(self, name: str) -> bytes | None:
        """A picture; names carry the question's number, so that no browser shows an old one."""
        with self._turn:
            number, _, side = name.partition("-")
            return self._files.get(side) if number == str(self._number) else None

    def _page(self) -> str:
        with self._turn:
            self._turn.wait_for(
                lambda: self._is_over or (self._question and not self._is_answered), _WAIT_S
            )
            if self._is_over:
                self._said_goodbye.set()
                return f"{_PAGE}<p>That was all. You can close this page."
            if self._question is None or self._is_answered:
                return f'{_PAGE}<meta http-equiv="refresh" content="1"><p>One moment.'
            return _question_page(self._question, self._number)

    def _take(self, form: str) -> None:
        said = parse_qs(form)
        choice, number = said.get("choice", [""])[0], said.get("number", [""])[0]
        with self._turn:
            # A second click, or a page from before, answers nothing.
            current = number == str(self._number) and not self._is_answered
            if current and choice in _CHOICES and self._question is not None:
                self._answer = _CHOICES[choice]
                self._is_answered = True
                self._turn.notify_all()


def _question_page(question: Question, number: int) -> str:
    prompt = f"<p>{html.escape(question.prompt)}" if question.prompt else ""
    pictures = "".join(
        f'<button class="picture" name="choice" value="{side}" accesskey="{key}">'
        f'<img src="{number}-{side}.png" alt="the {side} picture"></button>'
        for side, key in (("left", "1"), ("right", "2"))
    )
    return (
        f"{_PAGE}<h1>Which picture is better?</h1>{prompt}"
        f"<p>{question.number} of about {question.total}"
        f'<form method="post" action="answer"><input type="hidden" name="number" value="{number}">'
        f'{pictures}</form><form method="post" action="answer">'
        f'<input type="hidden" name="number" value="{number}">'
        '<button name="choice" value="neither" accesskey="0">Neither</button>'
        '<button name="choice" value="stop">Stop for now</button></form>'
    )


def _handler(asker: PageAsker) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            rest = asker._allowed(self.headers.get("Host", ""), self.path)
            if rest == "":
                self._send(200, asker._page().encode(), "text/html; charset=utf-8")
                return
            data = None if rest is None else asker._file(rest)
            if data is None:
                self._send(404, b"not here", "text/plain")
            else:
                self._send(200, data, "image/png")

        def do_POST(self) -> None:
            rest = asker._allowed(self.headers.get("Host", ""), self.path)
            length = self.headers.get("Content-Length", "")
            if rest != "answer" or not length.isdecimal() or int(length) > _LONGEST_FORM:
                self._send(404, b"not here", "text/plain")
                return
            asker._take(self.rfile.read(int(length)).decode("utf-8", "replace"))
            self.send_response(303)
            self.send_header("Location", "./")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, code: int, data: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header(
                "Content-Security-Policy",
                "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; "
                "form-action 'self'; frame-ancestors 'none'",
            )
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal belongs to the program."""

    return Handler


@final
class TerminalAsker:
    """Questions in the terminal, about two files that any viewer can show.

    Args:
        given: Where answers are read from; standard input unless given.
        shown: Where questions are written to; standard error unless given.
    """

    def __init__(self, given: TextIO | None = None, shown: TextIO | None = None) -> None:
        import sys

        self._given = given or sys.stdin
        self._shown = shown or sys.stderr
        self._folder = tempfile.TemporaryDirectory(prefix="stockpot-choice-")

    def ask(self, question: Question) -> float | None:
        """Write two files and wait for 1, 2, 0 or q.

        Args:
            question: What to show.

        Returns:
            1 for the first one, 0 for the second one, 0.5 for neither; None to stop for now, also
            where the input ends.
        """
        folder = Path(self._folder.name)
        (folder / "1.png").write_bytes(_png(question.left))
        (folder / "2.png").write_bytes(_png(question.right))
        prompt = "".join(c if c.isprintable() else " " for c in question.prompt)
        print(f"{question.number} of about {question.total}: {prompt}", file=self._shown)
        print(f"look at 1.png and 2.png in {folder}", file=self._shown)
        answers = {"1": 1.0, "2": 0.0, "0": 0.5, "q": None}
        while True:
            print("which is better? (1, 2, 0 neither, q stop) ", end="", file=self._shown,
                  flush=True)  # fmt: skip
            line = self._given.readline()
            if not line:
                return None
            if line.strip() in answers:
                return answers[line.strip()]

    def close(self) -> None:
        """Remove the two files."""
        self._folder.cleanup()


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    require_pillow().fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def _print_to_stderr(text: str) -> None:
    import sys

    print(text, file=sys.stderr)
