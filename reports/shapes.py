"""Whether a JSON value has the shape it should have."""

from collections.abc import Iterator, Mapping
from typing import Any

EACH = "*"  # in a shape: every name of a mapping

Shape = Any  # a type or a tuple of types; [shape of each item]; {name: shape}; {EACH: shape of each value}


def wrong_shapes(value: Any, shape: Shape, where: str = "") -> Iterator[str]:
    """What is not as the shape says, such as `cells.0.seq_len should be int`."""
    here = where or "it"
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{here} should be a list"
            return
        for i, item in enumerate(value):
            yield from wrong_shapes(item, shape[0], _inside(where, str(i)))
    elif isinstance(shape, Mapping):
        if not isinstance(value, dict):
            yield f"{here} should be a table"
            return
        names = value if EACH in shape else shape
        for name in names:
            if name not in value:
                yield f"{_inside(where, name)} is missing"
            else:
                yield from wrong_shapes(value[name], shape[EACH if EACH in shape else name], _inside(where, name))
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not object):
        types = shape if isinstance(shape, tuple) else (shape,)
        yield f"{here} should be {' or '.join(t.__name__ for t in types)}"


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
