"""Text that a model, a file or a stranger wrote, made harmless for the format it is printed in."""

import re

from reports.exports import clean

_MARKDOWN = re.compile(r"^[-+=]|[\\`*_{}\[\]#!|<>~&:$^@]")


def printable(text: object, limit: int = 300) -> str:
    """A text whose characters all show, in their order, cut at `limit` characters."""
    return clean(str(text), limit)


def line(text: object, limit: int = 300) -> str:
    """A printable text on one line."""
    return printable(" ".join(str(text)[: 2 * limit].split()), limit)


def markdown(text: object, limit: int = 300) -> str:
    """A text that GitHub prints as it is, in a table too: no markup, link, mention or reference comes of it."""
    escaped = _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", line(text, limit))
    # An entity is read before mentions, references and addresses are looked for.
    return re.sub(r"(&#64;|&#35;|&#58;|\bwww(?=\.))", "\\1&#8203;", escaped)
