"""What runs in a data directory: written by the supervisor, read by `webhost status`."""

import msgspec

from webhost_local.data_dir import DataDir, StackError, write_whole


class RunningProcess(msgspec.Struct, rename="camel", omit_defaults=True):
    """One process; `url` is where it answers, `opsUrl` where /livez, /readyz, /metrics are."""

    name: str
    pid: int
    url: str | None = None
    ops_url: str | None = None


class Cloudflare(msgspec.Struct, rename="camel"):
    """How to reach the local edge as Cloudflare's API is reached."""

    api_base_url: str
    api_token: str
    account_id: str
    zone_id: str


class Status(msgspec.Struct, rename="camel"):
    """The output of `webhost status --json`. Its NATS user and Postgres role may do everything."""

    origin: str
    processes: list[RunningProcess]
    nats_url: str
    postgres_dsn: str
    cloudflare: Cloudflare


class State(msgspec.Struct, rename="camel"):
    """`stack.json`. `ready` once every process has been ready; it then stays."""

    ready: bool
    status: Status


def write(data_dir: DataDir, state: State) -> None:
    write_whole(data_dir.state, msgspec.json.format(msgspec.json.encode(state)).decode())


def read(data_dir: DataDir, *, ready: bool = True) -> Status:
    """What runs there now. Raises StackError when nothing does, or, with `ready`, not yet all."""
    try:
        state = msgspec.json.decode(data_dir.state.read_bytes(), type=State)
    except FileNotFoundError:
        state = None
    if not data_dir.is_locked():
        raise StackError(f"no stack is running in {data_dir.root}; start one with `webhost up`")
    if state is None or (ready and not state.ready):
        raise StackError(f"the stack in {data_dir.root} is still starting")
    return state.status
