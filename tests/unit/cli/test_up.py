"""What `webhost up` is asked for and cannot do ends it before anything starts."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from webhost_cli import stack
from webhost_local.data_dir import DataDir, StackError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--replicas", "gatway=2"), "no service 'gatway'"),
        (("--replicas", "gateway=0"), "gateway=0"),
        (("--nats-nodes", "2"), "2: must be 1 or 3"),
        (("--nats-nodes", "0"), "0: must be 1 or 3"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    app = typer.Typer()
    stack.register(app)
    ended = CliRunner().invoke(app, ["up", "--data-dir", str(tmp_path / "data"), *options])
    assert ended.exit_code == 2
    # The terminal's box may break the message into lines.
    assert said in " ".join(ended.output.replace("│", " ").split())
    assert options[0] in ended.output
    assert not (tmp_path / "data").exists()


def test_a_stack_keeps_the_nats_servers_that_it_began_with(tmp_path: Path) -> None:
    data_dir = DataDir.at(tmp_path)
    assert data_dir.nats_nodes(None) == 1
    assert data_dir.nats_nodes(3) == 3
    data_dir.nats("nats").mkdir()
    assert data_dir.nats_nodes(None) == data_dir.nats_nodes(1) == 1
    with pytest.raises(StackError, match=r"by one NATS server.*to 3.*--nats-nodes 1, or .*another"):
        data_dir.nats_nodes(3)
    data_dir.nats("nats-2").mkdir()
    assert data_dir.nats_nodes(None) == data_dir.nats_nodes(3) == 3
    with pytest.raises(StackError, match=r"by 3 NATS servers.*to one.*--nats-nodes 3, or .*anothe"):
        data_dir.nats_nodes(1)
