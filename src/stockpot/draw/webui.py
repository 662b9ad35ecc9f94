"""Drawing by a web UI that runs already: A1111's and Forge's API, for pictures that must match it
to the pixel.

Only what the API documents is used: ``POST /sdapi/v1/txt2img`` with a payload; it answers with
``images`` (base64) and ``info`` (JSON as text, with an infotext for each picture).
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stockpot.draw.payloads import to_payload
from stockpot.draw.requests import Request
from stockpot.errors import StockpotError

__all__ = ["SentPicture", "WebUI", "WebUIError"]

_LARGEST = 1 << 30
_PATH = "/sdapi/v1/txt2img"


class WebUIError(StockpotError, ConnectionError):
    """A web UI cannot be reached, or its answer is not what its API promises."""


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A picture from a web UI.

    Attributes:
        data: The file as it was sent, PNG as a rule.
        seed: Of this picture.
        infotext: What the web UI tells of it.
    """

    data: bytes
    seed: int
    infotext: str


@dataclass(frozen=True)
class WebUI:
    """A web UI with its API on (``--api``).

    Attributes:
        url: Such as ``http://127.0.0.1:7860``.
        timeout_s: How long one answer may take.
        n_tries: How often to ask when it is busy or does not answer; errors in the request are
            not asked again.
        wait_s: Pause before the second try; it doubles.

    Raises:
        ValueError: The URL is no web address.
    """

    url: str
    timeout_s: float = 600.0
    n_tries: int = 3
    wait_s: float = 1.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"a web UI's address is like http://127.0.0.1:7860, but got {self.url!r}"
            )
        if self.timeout_s <= 0 or self.n_tries < 1 or self.wait_s < 0:
            raise ValueError("time-out and tries must be above 0, and the pause 0 or more")

    def draw(
        self, request: Request, *, sleep: Callable[[float], None] = time.sleep
    ) -> list[SentPicture]:
        """Let the web UI draw a request.

        Args:
            request: What to draw; the web UI chooses the model if it names none.
            sleep: How to wait.

        Returns:
            As many pictures as were asked for; a grid that the web UI adds is left out.

        Raises:
            WebUIError: It does not answer, or answers something else; the message says what.
        """
        payload = {
            name: value
            for name, value in to_payload(request).items()
            if not name.startswith("stockpot_")
        }
        if request.settings.cfg_rescale:
            raise WebUIError(
                "the web UI's API has no field for CFG rescale; draw without --via, or set it to 0"
            )
        answer = self._ask({**payload, "send_images": True, "save_images": False}, sleep)
        return self._pictures(answer, request)

    def _ask(self, payload: dict[str, Any], sleep: Callable[[float], None]) -> Any:
        body = json.dumps(payload).encode()
        wait, last = self.wait_s, ""
        for attempt in range(self.n_tries):
            if attempt:
                sleep(wait)
                wait *= 2
            try:
                return self._post(body)
            except _Again as error:
                last = str(error)
        raise WebUIError(f"{self.url}: {last}; asked {self.n_tries} times")

    def _post(self, body: bytes) -> Any:
        address = self.url.rstrip("/") + _PATH
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        asked = urllib.request.Request(address, body, headers)  # noqa: S310 - http(s) alone
        try:
            with urllib.request.urlopen(asked, timeout=self.timeout_s) as answer:  # noqa: S310
                data = answer.read(_LARGEST + 1)
                missing = answer.length  # of what its header promised
        except urllib.error.HTTPError as error:
            with error:
                detail = _detail(error.read(4096))
            if error.code == 404:
                raise WebUIError(f"{address}: there is no such page; start the web UI with --api") \
                    from error  # fmt: skip
            if error.code in (429, 502, 503, 504):
                raise _Again(f"it is busy ({error.code} {error.reason})") from error
            raise WebUIError(f"{address}: it refused the request ({error.code} {error.reason})"
                             f"{detail}") from error  # fmt: skip
        except TimeoutError as error:
            raise _Again(f"it did not answer within {self.timeout_s:g} s") from error
        except (urllib.error.URLError, ConnectionError, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Again(f"it did not answer within {self.timeout_s:g} s") from error
            raise _Again(f"it cannot be reached ({reason})") from error
        except Exception as error:
            # http.client breaks off in ways of its own.
            raise _Again(f"its answer broke off ({type(error).__name__})") from error
        if missing and len(data) <= _LARGEST:
            raise _Again(f"its answer broke off {missing} bytes too early")
        if len(data) > _LARGEST:
            raise WebUIError(f"{address}: the answer is larger than {_LARGEST >> 20} MiB")
        try:
            return json.loads(data)
        except ValueError as error:
            raise WebUIError(f"{address}: the answer must be JSON, but it begins with "
                             f"{data[:40]!r}") from error  # fmt: skip

    def _pictures(self, answer: Any, request: Request) -> list[SentPicture]:
        if not isinstance(answer, dict) or not isinstance(answer.get("images"), list):
            got = sorted(answer) if isinstance(answer, dict) else answer
            raise WebUIError(
                f"{self.url}: the answer must have a list `images`, but it has {got!r}"
            )
        info: Any = answer.get("info") or "{}"
        try:
            info = json.loads(info) if isinstance(info, str) else info
        except ValueError as error:
            raise WebUIError(f"{self.url}: the answer's `info` must be JSON, but it is "
                             f"{str(answer['info'])[:40]!r}") from error  # fmt: skip
        info = info if isinstance(info, dict) else {}
        first = info.get("index_of_first_image", 0)
        first = first if isinstance(first, int) and 0 <= first < len(answer["images"]) else 0
        images = answer["images"][first : first + request.n_pictures]
        if len(images) != request.n_pictures:
            raise WebUIError(f"{self.url}: {request.n_pictures} pictures were asked for, but it "
                             f"sent {len(images)}")  # fmt: skip
        seeds, texts = info.get("all_seeds") or [], info.get("infotexts") or []
        found = []
        for i, image in enumerate(images):
            seed = seeds[i] if i < len(seeds) else request.seeds()[i]
            text = texts[first + i] if first + i < len(texts) else ""
            found.append(SentPicture(self._decoded(image, i), int(seed), str(text)))
        return found

    def _decoded(self, image: Any, i: int) -> bytes:
        from stockpot.draw.pictures import from_png

        try:
            data = base64.b64decode(str(image).rpartition(",")[2], validate=True)
            from_png(data)
        except (binascii.Error, ValueError) as error:
            raise WebUIError(f"{self.url}: picture {i + 1} of the answer is none: {error}") \
                from error  # fmt: skip
        return data


class _Again(Exception):
    """Something that may be better next time."""


def _detail(body: bytes) -> str:
    """What the API says of an error: it answers with ``detail`` or ``error`` and ``errors``."""
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(content, dict):
        return ""
    words = [str(content[name]) for name in ("error", "detail", "errors") if content.get(name)]
    return f": {'; '.join(words)[:400]}" if words else ""
