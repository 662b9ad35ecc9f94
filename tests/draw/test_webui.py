"""The web UI's API, spoken with a small server: right, slow, broken and wrong answers."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from stockpot.draw import (
    DrawSettings,
    FreeU,
    FreeUStage,
    Named,
    Request,
    WebUI,
    WebUIError,
    from_png,
    parse_infotext,
    parse_payload,
    to_png,
    write_infotext,
)

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Server:
    """Speaks the schema of ``/sdapi/v1/txt2img``; `answers` replace what it says, one by one."""

    def __init__(self) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                payload = json.loads(self.rfile.read(length))
                if self.path != "/sdapi/v1/txt2img":
                    return send(self, 404, {"detail": "Not Found"})
                outer.payloads.append(payload)
                (outer.answers.pop(0) if outer.answers else right)(self, payload)

            def log_message(self, *_: Any) -> None:
                """Nothing on the screen."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(handler: BaseHTTPRequestHandler, code: int, content: Any) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(code)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def picture(seed: int) -> np.ndarray:
    return np.full((2, 2, 3), seed % 256, np.uint8)


def right(handler: BaseHTTPRequestHandler, payload: dict[str, Any]) -> None:
    """As the web UI answers: a grid first where there are several pictures."""
    n = payload["batch_size"] * payload["n_iter"]
    request = parse_payload(payload).request
    seeds = [payload["seed"] + i for i in range(n)]
    images = [base64.b64encode(to_png(picture(seed))).decode() for seed in seeds]
    texts = [write_infotext(Request(request.prompt, seed, request.settings)) for seed in seeds]
    if n > 1:
        images.insert(0, base64.b64encode(to_png(picture(0))).decode())
        texts.insert(0, texts[0])
    info = {"all_seeds": seeds, "infotexts": texts, "index_of_first_image": int(n > 1)}
    send(handler, 200, {"images": images, "parameters": payload, "info": json.dumps(info)})


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


REQUEST = Request("a (cat:1.2)", 7, DrawSettings(steps=5, sampler="Euler", width=64, height=64,
                                                 noise="NV"), n_pictures=3)  # fmt: skip


def ask(server: Server, waits: list[float] | None = None, **options: Any) -> Any:
    waits = [] if waits is None else waits
    return WebUI(server.url, **options).draw(REQUEST, sleep=waits.append)


def test_pictures_come_without_the_grid(server: Server) -> None:
    found = ask(server)
    assert [one.seed for one in found] == [7, 8, 9]
    for one in found:
        assert np.array_equal(from_png(one.data), picture(one.seed))
        assert parse_infotext(one.infotext).request.seed == one.seed


def test_the_payload_is_the_request(server: Server) -> None:
    settings = DrawSettings(
        steps=5, sampler="DPM++ 2M", schedule="Karras", width=64, height=96, clip_skip=2,
        noise="NV", freeu=FreeU((FreeUStage(1.2, 0.9),), version=2),
    )  # fmt: skip
    request = Request("x", 3, settings, model=Named("mix", "0123456789"))
    WebUI(server.url).draw(request)
    (payload,) = server.payloads
    assert payload["override_settings"]["sd_model_checkpoint"] == "mix [0123456789]"
    assert payload["override_settings"]["CLIP_stop_at_last_layers"] == 2
    assert payload["alwayson_scripts"]["FreeU"]["args"][0]["stage_infos"][0]["skip_factor"] == 0.9
    sent = parse_payload(payload).request
    assert sent.settings.freeu == settings.freeu and sent.settings.schedule == "Karras"
    with pytest.raises(WebUIError, match="no field for CFG rescale"):
        WebUI(server.url).draw(Request("x", 1, DrawSettings(cfg_rescale=0.5)))


def answering(code: int, content: Any) -> Answer:
    return lambda handler, _: send(handler, code, content)


def slow(handler: BaseHTTPRequestHandler, payload: dict[str, Any]) -> None:
    time.sleep(0.6)
    try:
        right(handler, payload)
    except OSError:
        pass


def cut(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"images": [')


def test_busy_slow_and_broken_answers_are_asked_again(server: Server) -> None:
    waits: list[float] = []
    server.answers = [answering(503, {}), cut, slow]
    found = ask(server, waits, n_tries=4, timeout_s=0.3, wait_s=0.5)
    assert len(found) == 3 and len(server.payloads) == 4
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (slow, r"127.0.0.1:\d+: it did not answer within 0.2 s; asked 2 times"),
        (cut, "its answer broke off|cannot be reached"),
        (answering(503, {}), r"it is busy \(503 .*\); asked 2 times"),
    ],
)
def test_what_stays_bad_is_said(server: Server, answer: Answer, message: str) -> None:
    server.answers = [answer] * 2
    with pytest.raises(WebUIError, match=message):
        ask(server, n_tries=2, timeout_s=0.2)
    assert len(server.payloads) == 2


PNG = base64.b64encode(to_png(picture(1))).decode()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (answering(422, {"detail": [{"msg": "steps must be a number"}]}),
         r"refused the request \(422 .*\): .*steps must be a number"),
        (answering(500, {"error": "OutOfMemoryError", "errors": "no memory"}),
         "OutOfMemoryError; no memory"),
        (answering(200, b"<html>hello"), "must be JSON, but it begins with b'<html>hello'"),
        (answering(200, {"pictures": []}), r"must have a list `images`, but it has \['pictures'\]"),
        (answering(200, [1]), r"must have a list `images`, but it has \[1\]"),
        (answering(200, {"images": [PNG], "info": "{}"}), "3 pictures were .* but it sent 1"),
        (answering(200, {"images": ["%%%"] * 3, "info": "{}"}), "picture 1 of the answer is none"),
        (answering(200, {"images": ["aGVsbG8="] * 3, "info": "{}"}), "picture 1 .* is none"),
        (answering(200, {"images": [PNG] * 3, "info": "{{"}), "`info` must be JSON"),
    ],
)  # fmt: skip
def test_wrong_answers_are_not_asked_again(server: Server, answer: Answer, message: str) -> None:
    server.answers = [answer]
    with pytest.raises(WebUIError, match=message):
        ask(server)
    assert len(server.payloads) == 1


def test_answers_without_info_still_count(server: Server) -> None:
    server.answers = [answering(200, {"images": [PNG] * 3})]
    assert [one.seed for one in ask(server)] == [7, 8, 9]


def test_nobody_there(server: Server) -> None:
    server.close()
    with pytest.raises(WebUIError, match="it cannot be reached .*asked 2 times"):
        ask(server, n_tries=2)


def test_no_api_and_odd_addresses(server: Server) -> None:
    with pytest.raises(WebUIError, match="start the web UI with --api"):
        WebUI(server.url + "/other").draw(REQUEST)
    with pytest.raises(ValueError, match="is like http://127.0.0.1:7860, but got 'file:///x'"):
        WebUI("file:///x")
