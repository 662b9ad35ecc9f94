"""What a file is that calls itself a checkpoint and is none, from its first bytes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sniff"]

_N_BYTES = 256

_STARTS = (
    (b"<!doctype", "this is a web page: the site sent a page in place of the file"),
    (b"<html", "this is a web page: the site sent a page in place of the file"),
    (b"<?xml", "this is an XML document: the site sent a message in place of the file"),
    (b'{"error', "this is an error message that a site sent in place of the file"),
    (b'{"message', "this is an error message that a site sent in place of the file"),
    (b"version https://git-lfs", "this is a pointer of Git LFS; the file itself was not fetched"),
    (b"\x89png", "this is a picture (PNG)"),
    (b"\xff\xd8\xff", "this is a picture (JPEG)"),
    (b"riff", "this is a picture or sound (RIFF)"),
    (b"gguf", "this is a GGUF file, for other programs"),
    (b"7z\xbc\xaf", "this is a 7-Zip archive; unpack it"),
    (b"rar!", "this is a RAR archive; unpack it"),
    (b"\x1f\x8b", "this is a gzip archive; unpack it"),
    (b"%pdf", "this is a PDF document"),
)


def sniff(path: Path) -> str | None:
    """Look at the first bytes of a file that could not be read as a checkpoint.

    Args:
        path: The file; a few bytes of it are read.

    Returns:
        What it is; None where the bytes tell nothing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_N_BYTES)
    except OSError:
        return None
    if not head:
        return "this file is empty: the download did not begin"
    # A few programs put blanks or a byte-order mark first.
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for mark, meaning in _STARTS:
        if start.startswith(mark):
            return meaning
    return "this file holds only zeros: the download was cut" if not head.strip(b"\0") else None
