"""A data directory of another version is refused with a line that says what to do."""

from pathlib import Path

import pytest
from webhost_local.data_dir import FORMAT, DataDir, StackError
from webhost_local.ports import free_port
from webhost_local.replicas import one_of_each
from webhost_local.stack import prepare


@pytest.mark.parametrize("found", [None, "1", f"{int(FORMAT) + 1}"])
def test_a_directory_of_another_version_is_refused(tmp_path: Path, found: str | None) -> None:
    directory = DataDir.at(tmp_path)
    directory.secrets.write_text("{}")
    if found is not None:
        (tmp_path / "format").write_text(found)
    with pytest.raises(StackError, match="remove it to begin anew"):
        directory.require_format()


def test_a_stack_is_not_prepared_in_a_directory_of_another_version(tmp_path: Path) -> None:
    directory = DataDir.at(tmp_path)
    directory.secrets.write_text("{}")
    (tmp_path / "format").write_text(f"{int(FORMAT) + 1}")
    with pytest.raises(StackError, match="remove it to begin anew"):
        prepare(directory, port=free_port(), replicas=one_of_each(), nats_nodes=None)
    # and nothing of it was touched
    assert {path.name for path in tmp_path.iterdir()} == {"secrets.json", "format"}
    assert directory.secrets.read_text() == "{}"


def test_a_directory_is_used_again_by_the_version_that_made_it(tmp_path: Path) -> None:
    directory = DataDir.at(tmp_path)
    directory.require_format()
    directory.secrets.write_text("{}")
    directory.require_format()
    assert (tmp_path / "format").read_text() == FORMAT
