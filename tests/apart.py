"""Processes of their own, to be killed or to work together, forked from one that has imported what they need.

Imports take some ten seconds of a processor, most of what such a process would do. The process that is forked is begun
by the first test that needs it, serves all processes that the tests run in, and ends with the last of them.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path

from filelock import FileLock

IMPORTED = [
    "accelerate",
    "peft",
    "thoughtlens.cli",
    "thoughtlens.models.loader",
    "thoughtlens.reports.run_files",
    "thoughtlens.runs.extraction",
    "thoughtlens.training.training_and_card",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "zarr",
]
DOOR = Path(tempfile.gettempdir(), f"apart-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}")
"""The socket at which the process listens that is forked."""


class Process:
    """A process of its own, of which the one that was forked tells the number and, when it has ended, the exit code."""

    exitcode: int | None = None

    def __init__(self, line: Connection) -> None:
        self.line = line
        self.pid: int = line.recv()

    def is_alive(self) -> bool:
        return self.exitcode is None and not self.line.poll()

    def join(self) -> None:
        if self.exitcode is None:
            self.exitcode = self.line.recv()

    def kill(self) -> None:
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def begin(target: Callable, *arguments: object, log: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Call a function of a module in a process of its own, with these variables too; what it says goes to a file."""
    _stay()
    line = Client(str(DOOR))
    here = Path.cwd(), sys.path, os.environ | dict(environment or {})
    line.send_bytes(pickle.dumps((*here, pickle.dumps((target, arguments, log)))))
    return Process(line)


def end(process: Process, log: Path) -> str:
    """Wait until a process has ended well; what it said."""
    process.join()
    said = log.read_text()
    assert process.exitcode == 0, said[-3000:]
    return said


@cache
def _stay() -> Connection:
    """A connection that is open as long as this process is: the process that is forked stays for it."""
    with FileLock(f"{DOOR}.lock"):
        with suppress(OSError, EOFError):
            return _admitted()
        DOOR.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(DOOR))
            door.listen()
            door.set_inheritable(True)
            words = [sys.executable, "-m", __name__, str(door.fileno())]
            # Not a `Popen`, which must be waited for by whoever began it.
            os.spawnve(os.P_NOWAIT, sys.executable, words, os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        return _admitted()


def _admitted() -> Connection:
    line = Client(str(DOOR))
    line.send_bytes(b"")
    line.recv()
    return line


def serve(door: socket.socket) -> None:
    """Fork a process for each call that comes in at the door, until nobody is left who stays."""
    for name in IMPORTED:
        import_module(name)
    gc.freeze()  # what is imported stays: no child need look through it
    staying, at_work = [], {}
    while True:
        for ready in wait([door, *staying, *at_work]):
            if ready is door:
                line = Connection(door.accept()[0].detach())
                asked = line.recv_bytes()
                if asked:
                    process = multiprocessing.get_context("fork").Process(target=_call, args=pickle.loads(asked))
                    process.start()
                    at_work[process.sentinel] = process, line
                    line.send(process.pid)
                else:
                    staying.append(line)
                    line.send("admitted")
            elif ready in at_work:
                process, line = at_work.pop(ready)
                process.join()
                with suppress(BrokenPipeError):  # nobody waits for it any more
                    line.send(process.exitcode)
                line.close()
            else:
                staying.remove(ready)
                ready.close()
        if not staying:
            return


def _call(folder: Path, path: list[str], environment: dict[str, str], asked: bytes) -> None:
    import torch

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    target, arguments, log = pickle.loads(asked)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("w", buffering=1)  # open to the end: errors are told last
    target(*arguments)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as door:
        name = door.getsockname()
        serve(door)
    for left in (Path(name), Path(f"{name}.lock")):
        left.unlink(missing_ok=True)
