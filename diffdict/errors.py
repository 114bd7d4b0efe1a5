"""What a user can mend, said in one line."""


class UserError(ValueError):
    """A mistake in what was asked or given: printed as one line, exit code 2, no traceback.

    The message names the thing, the rule, what came, and the way out.
    """


def one_line(error: BaseException) -> str:
    """The error as a single line of text."""
    return " ".join(str(error).split()) or type(error).__name__
