"""What a .env file comes to, and how its values are sent."""

from pathlib import Path

import msgspec
import pytest
from webhost_cli import secrets
from webhost_cli.errors import CommandError

FILE = """
# comment
PLAIN=value
export QUOTED="with = and # \\n"
SINGLE='as ${IT} is'
EMPTY=
"""


def test_a_dotenv_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(FILE)
    assert secrets.read_dotenv(file) == {
        "PLAIN": "value",
        "QUOTED": "with = and # \n",
        "SINGLE": "as ${IT} is",
        "EMPTY": "",
    }


@pytest.mark.accept("7.3.cli")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=b\nno value at all secret-value\n", "line 2"),
        (b"A=b\nNAME_ONLY\n", "line 2"),
        (b"A=secret-value\xff\n", "UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named_without_its_content(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / ".env"
    file.write_bytes(content)
    with pytest.raises(CommandError, match=said) as refused:
        secrets.read_dotenv(file)
    assert "secret-value" not in str(refused.value)


def test_many_values_are_sent_in_requests_that_hold_them() -> None:
    values = {f"KEY_{n}": "é" * 2_500 for n in range(40)}
    parts = list(secrets.in_requests(values))
    assert {key: value for part in parts for key, value in part.items()} == values
    assert len(parts) == 4
    assert all(len(msgspec.json.encode({"secrets": part})) < 64 * 1024 for part in parts)
