"""The errors that a user can mend: each is one sentence that says what was found, what was expected and what to do.

The command line turns every `ThoughtLensError` into that sentence and exit code 2. Anything else is a bug and
keeps its traceback.
"""


class ThoughtLensError(Exception):
    """Base of every error that a user can mend."""


class ProblemSetError(ThoughtLensError):
    """A problem set is missing, empty, malformed or too small."""


class CheckpointError(ThoughtLensError):
    """A model can't be found, read safely, or is not what was asked for."""


class RunError(ThoughtLensError):
    """A run folder can't be written, is foreign, unfinished or of other options."""


class RecipeError(ThoughtLensError):
    """A training recipe names something unknown or impossible."""


class OptionError(ThoughtLensError):
    """An option is outside what it may be."""


def first_line(error: Exception) -> str:
    """The first line of what an error of another library says; its class if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
