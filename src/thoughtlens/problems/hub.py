"""Turn a data set on the Hugging Face Hub into rows and the commit they come from, or into one sentence why not.

The commit is resolved first and the rows are loaded at it, so that what is recorded is what was read. What the columns
mean is not known here.
"""

import re

from thoughtlens.errors import ProblemSetError
from thoughtlens.problems.files import Row

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS_TO_WAIT = 20


def read_hub_rows(hub_id: str, config: str | None, split: str, revision: str | None) -> tuple[list[Row], str]:
    """Read one split of a hub data set.

    Args:
        hub_id: `owner/name`.
        config: the configuration, None for the only one.
        split: the split.
        revision: a branch, tag or commit; None for the newest.

    Returns:
        The rows, numbered from 1, and the commit hash they were read at.

    Raises:
        ProblemSetError: `datasets` isn't installed, or the hub can't be reached, refuses or lacks the set.
    """
    try:
        # Heavy, optional, and of no use to local files.
        from datasets import load_dataset
    except ImportError as error:
        raise ProblemSetError(
            f"{hub_id} is read with datasets, which is not installed; run `pip install 'thoughtlens[hub]'`, "
            "or name a local file."
        ) from error
    try:
        commit = _resolve(hub_id, revision)
        dataset = load_dataset(hub_id, config, split=split, revision=commit)
        return [Row(number, dict(fields)) for number, fields in enumerate(dataset, start=1)], commit
    # The hub's libraries raise a dozen unrelated classes; whichever it is, the user can mend it, and the cause is kept.
    except Exception as error:
        raise ProblemSetError(_explain(error, hub_id, split, revision)) from error


def _resolve(hub_id: str, revision: str | None) -> str:
    """The commit that a revision stands for; a commit stands for itself, so that cached sets load without a network."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    # Heavy, and of no use to local files.
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(hub_id, revision=revision, timeout=_SECONDS_TO_WAIT).sha
    if commit is None:
        raise ValueError("the hub names no commit")
    return commit


def _explain(error: Exception, hub_id: str, split: str, revision: str | None) -> str:
    # By name, since the classes come from three libraries and moved between versions.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
    # A gated set is also a set not found, so it is asked for first.
    if "GatedRepoError" in kinds or "gated" in reason:
        return f"{hub_id} is gated; accept its terms on its hub page and run `hf auth login`, or name a local file."
    if "RevisionNotFoundError" in kinds:
        return f"{hub_id} has no revision {revision!r}; leave it out for the newest, or name a commit of its hub page."
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return f"{hub_id} is missing from the hub or private; check its hub page, or name a local file."
    if kinds & {"ConnectionError", "TransportError", "LocalEntryNotFoundError", "TimeoutError"}:
        return f"{hub_id} can't be reached ({reason}); connect to the network, or name a local .jsonl file instead."
    found = f"{type(error).__name__}: {reason}"
    return f"{hub_id}, split {split!r}, can't be loaded ({found}); try another `--problems-revision`, or a file."
