"""Further processes of one command, which take part in the same study and end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["further_processes", "is_further_process"]

#: Set for the further processes of one command: who started them.
_PARENT = "STOCKPOT_TUNE_PARENT"


@contextmanager
def further_processes(n: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start processes that run the same command on the same study.

    Args:
        n: How many; they end with the context at the latest.
    """
    environment = {**os.environ, _PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "stockpot", *sys.argv[1:]]
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(n)
    ]
    try:
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
                child.wait()


def is_further_process() -> bool:
    """Whether another process of the same command started this one.

    If so, it ends when that one is gone, however that went.
    """
    if _PARENT not in os.environ:
        return False
    parent = int(os.environ[_PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return True
