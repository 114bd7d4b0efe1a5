"""JSON as every reader knows it: what is no number is null, never NaN or Infinity."""

import json
import math
from collections.abc import Callable, Mapping


def as_json_values(value: object) -> object:
    """The same in what JSON knows; null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): as_json_values(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json_values(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def json_text(
    value: object,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
    separators: tuple[str, str] | None = None,
    default: Callable[[object], object] | None = None,
) -> str:
    """The value as JSON, in the style that is asked for."""
    return json.dumps(
        as_json_values(value),
        indent=indent,
        sort_keys=sort_keys,
        ensure_ascii=ensure_ascii,
        separators=separators,
        default=default,
        allow_nan=False,
    )
