"""A name becomes an engine; Ray, which is large and may not be there, is imported only where it is asked for."""

from typing import Final

from thoughtlens.errors import OptionError
from thoughtlens.runs.engines import Engine, Local

NAMES: Final = ("local", "ray")


def engine_named(name: str, *, workers: int | None = None, address: str | None = None) -> Engine:
    """The engine that the command line means.

    Args:
        name: `local` or `ray`.
        workers: Ray: how many; one a GPU, or one a CPU where there is none, if None.
        address: Ray: of a running cluster; one on this machine is started and stopped if None.

    Raises:
        OptionError: the name is unknown, Ray is not installed, or local work is given Ray's options.
    """
    if name == "ray":
        try:
            from thoughtlens.runs.ray_engine import Ray  # an extra, large and slow to import
        except ImportError as error:
            raise OptionError(
                "--engine ray needs Ray, which is not installed; run `pip install 'thoughtlens[ray]'`."
            ) from error
        return Ray(workers=workers, address=address)
    if name != "local":
        raise OptionError(f"no engine {name!r}; there are: {', '.join(NAMES)}.")
    if workers is not None or address is not None:
        raise OptionError("--workers and --address belong to --engine ray; leave them out, or add --engine ray.")
    return Local()
