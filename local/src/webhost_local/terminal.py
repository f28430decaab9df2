"""What others wrote, as it may be shown on a terminal.

A terminal obeys what it is shown: escape sequences move the cursor, set its title, answer for the
user; bidirectional controls show text in another order than it has. They are written out instead,
as `\\x1b` or `\\u202e`.
"""

import re

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SEPARATORS = "\u2028\u2029"
_OBEYED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}{_SEPARATORS}]")
_OBEYED_OR_BREAK = re.compile(f"[\x00-\x1f\x7f-\x9f{_BIDI}{_SEPARATORS}]")
_NOT_ESCAPED_IN_JSON = re.compile(f"[\x7f-\x9f{_BIDI}{_SEPARATORS}]")


def plain(text: str) -> str:
    """Return the text with all that a terminal obeys written out, but for tabs and line ends."""
    return _OBEYED.sub(_written_out, text.replace("\r\n", "\n"))


def plain_line(text: str) -> str:
    """Return the text on one line, with all that a terminal obeys written out."""
    return _OBEYED_OR_BREAK.sub(_written_out, text)


def plain_json(document: str) -> str:
    """Return the same JSON value, with what a terminal obeys as JSON's own escapes."""
    return _NOT_ESCAPED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
