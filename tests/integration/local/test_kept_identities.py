"""The identities of one local stack are made once, and kept."""

from pathlib import Path

from webhost_local.data_dir import DataDir
from webhost_local.kept_identities import load_or_make


def test_identities_stay_and_what_is_missing_is_added(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    first = load_or_make(data_dir)
    assert load_or_make(data_dir) == first
    assert data_dir.secrets.stat().st_mode & 0o777 == 0o600
    text = data_dir.secrets.read_text()
    data_dir.secrets.write_text(text.replace('"platformSeed"', '"somethingElse"'))
    again = load_or_make(data_dir)
    assert again.invoke_seed == first.invoke_seed
    assert again.platform_seed != first.platform_seed
    assert load_or_make(data_dir) == again
