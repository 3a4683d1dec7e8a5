"""Cells of a notebook, executed in a kernel of their own, and what they show."""

from contextlib import chdir
from pathlib import Path

from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from nbformat.v4 import output_from_msg
from tests import apart

OUTPUTS = ("display_data", "error", "execute_result", "stream")
"""Messages of a kernel that are outputs of a cell."""


def kernel(connection: str) -> None:
    """Be the kernel of this connection."""
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(["-f", connection])


def executed(cells: dict[str, str], folder: Path) -> dict[str, dict[str, list[str]]]:
    """What each cell shows when all run in `folder`, by the cell's name and by kind.

    Kinds are MIME types of results and pictures, `stdout` and `stderr`.
    """
    log, own = folder.with_suffix(".log"), folder.with_suffix(".kernel")
    connection = write_connection_file(str(folder.with_suffix(".json")))[0]
    with chdir(folder):
        # Its files are not shared with the user's.
        process = apart.begin(kernel, connection, log=log, environment={"IPYTHONDIR": str(own)})
    client = BlockingKernelClient(connection_file=connection)
    client.load_connection_file()
    client.start_channels(hb=False)  # without a heartbeat, by which a kernel that is slow to answer is taken for dead
    try:
        client.wait_for_ready(timeout=600)
        return {name: _shown(client, code) for name, code in cells.items()}
    finally:
        client.stop_channels()
        process.kill()
        process.join()


def _shown(client: BlockingKernelClient, code: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}

    def keep(message: dict) -> None:
        if message["msg_type"] in OUTPUTS:
            output = output_from_msg(message)
            kinds = output.get("data") or {output.get("name", "error"): output.get("text", "")}
            for kind, value in kinds.items():
                found.setdefault(kind, []).append(value)

    reply = client.execute_interactive(code, output_hook=keep)["content"]
    assert reply["status"] == "ok", "\n".join(reply["traceback"])
    return found
