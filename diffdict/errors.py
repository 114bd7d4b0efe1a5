"""What a user can mend, said in one line."""

import re


class UserError(ValueError):
    """A mistake in what was asked or given: printed as one line, exit code 2, no traceback.

    The message names the thing, the rule, what came, and the way out.
    """


def one_line(error: BaseException) -> str:
    """The error as a single line of text; of a loader's worker what it said, not where."""
    said = str(error)
    if said.startswith("Caught ") and "Original Traceback" in said:
        said = re.split(r"\n(?:\w+\.)+\w*Error: ", said)[-1]
    return " ".join(said.split()) or type(error).__name__
