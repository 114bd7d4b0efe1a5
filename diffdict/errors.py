"""What a user can mend, said in one line, with settings and commands that can be typed."""

import re
import shlex
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """A mistake in what was asked or given: printed as one line, exit code 2, no traceback.

    The message names the thing, the rule, what came, and the way out.
    """


def at_least(least: int, node: str, **values: int | None) -> None:
    """Nothing, or the first setting of this config node that is smaller; None is no number."""
    for name, value in values.items():
        if value is not None and value < least:
            setting = f"{node}.{name}"
            raise UserError(f"{setting} is at least {least}, got {value}: {setting}={least}")


def one_line(error: BaseException) -> str:
    """The error as a single line of text; of a loader's worker what it said, not where."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = re.split(r"\n(?:\w+\.)+\w*Error: ", text)[-1]
    return " ".join(text.split()) or type(error).__name__


def first_few(names: Iterable[object], most: int = 6) -> str:
    """The names for a sentence; of many the first, and how many more there are."""
    words = [str(name) for name in names]
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def override(key: str, value: object) -> str:
    """`key=value` as Hydra reads it, quoted where it has to be."""
    return f"{key}={_value(value)}"


def command(*words: str) -> str:
    """The words as a shell takes them."""
    safe = re.compile(r"[~+]?[\w@%+=:,./…\[\]-]+")
    return " ".join(word if safe.fullmatch(word) else shlex.quote(word) for word in words)


def _value(value: object) -> str:
    """By Hydra's grammar: words that are no other thing stand as they are, all else is quoted."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ",".join(map(_value, value)) + "]"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_./][\w./+-]*", text, re.ASCII)
    if isinstance(value, int | float):
        return text
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    return "'" + re.sub(r"(\\*)('|$)", _escaped, text) + "'"


def _escaped(match: re.Match) -> str:
    """A quote, and backslashes before a quote, which Hydra would take for escapes."""
    return match[1] * 2 + (f"\\{match[2]}" if match[2] else "")
