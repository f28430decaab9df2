"""The local stack: which processes it has, in which order they start, how each is ready."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import psycopg
from webhost_kit.database.revisions import package_of

from webhost_local import kept_identities, nats_server, state, supervisor
from webhost_local.data_dir import DataDir, StackError
from webhost_local.environment import Environment
from webhost_local.forked import ForkServer
from webhost_local.installation import bus_accounts, postgres_roles
from webhost_local.installation.services import OPERATOR
from webhost_local.issuer.identity import IssuerIdentity
from webhost_local.migrated import is_migrated
from webhost_local.ports import LOOPBACK, is_free
from webhost_local.postgres_server import Cluster, run_as
from webhost_local.process import Module, Process, ProcessSpec
from webhost_local.replicas import SERVED, Replicas, names_of, one_of_each
from webhost_local.state import Cloudflare, RunningProcess, State, Status

_PROBE_TIMEOUT_S = 2.0


def up(
    root: Path, *, port: int, replicas: Replicas | None = None, nats_nodes: int | None = None
) -> None:
    """Run the stack of a data directory until a signal comes; its origin is on `port`.

    It has one of each service, unless `replicas` says otherwise, and as many NATS servers as
    before, or one. Raises StackError when it cannot start: another one runs there, or a port is
    taken, or its streams are not kept by so many servers.
    """
    data_dir = DataDir.at(root)
    with data_dir.locked():
        supervisor.clear_leftovers(data_dir)
        environment = prepare(
            data_dir, port=port, replicas=replicas or one_of_each(), nats_nodes=nats_nodes
        )

        def write_state(processes: Sequence[Process], ready: bool) -> None:
            state.write(data_dir, State(ready, _status(environment, processes)))

        with closing(ForkServer(environment.base, data_dir.root)) as forks:
            supervisor.run(
                groups(environment, forks),
                on_change=write_state,
                welcome=lambda seconds: _welcome(environment, root, seconds),
            )


def prepare(
    data_dir: DataDir, *, port: int, replicas: Replicas, nats_nodes: int | None
) -> Environment:
    """Read or make the stack's identities and choose its ports; the directory is locked.

    Raises StackError when a port that must not change is taken, or another version made it.
    """
    data_dir.require_format()
    issuer = IssuerIdentity.load_or_make(data_dir)
    if not is_free(port):
        raise StackError(f"port {port} is taken; choose another one with --port")
    if not is_free(issuer.port):
        raise StackError(
            f"port {issuer.port} is taken: the development issuer of {data_dir.root} needs it, "
            "since its address is a part of every user's identity"
        )
    nats = names_of("nats", data_dir.nats_nodes(nats_nodes))
    for name in reversed(nats):  # so that one of them alone is known to be the only one
        data_dir.nats(name).mkdir(mode=0o700, exist_ok=True)
    routes = [f"{name}-routes" for name in nats] if len(nats) > 1 else []
    served = [name for kind in SERVED for name in replicas[kind]]
    ops = [f"{name}-ops" for several in replicas.values() for name in several]
    names = [*nats, *routes, "postgres", "edge", "lemonsqueezy", *served, *ops]
    ports = data_dir.choose_ports(names, taken=(port, issuer.port))
    known = kept_identities.load_or_make(data_dir)
    kept_identities.write_keys(data_dir, known)
    return Environment(
        data_dir=data_dir,
        identities=known,
        cluster=Cluster(data_dir.postgres, ports["postgres"], known.postgres_superuser),
        issuer=issuer.url,
        origin_port=port,
        ports=ports | {"issuer": issuer.port},
        replicas=replicas,
        nats=nats,
        coloured=sys.stdout.isatty(),
    )


def groups(environment: Environment, forks: ForkServer) -> list[list[ProcessSpec]]:
    """The stack's processes, in the order in which they start: the services need all others."""
    others = [
        ("edge", environment.edge()),
        ("issuer", environment.issuer_process()),
        ("lemonsqueezy", environment.lemonsqueezy()),
    ]
    return [
        [
            *infrastructure(environment),
            *(
                _python(environment, forks, name, f"webhost_local.{name}", env, name)
                for name, env in others
            ),
        ],
        [
            _service(environment, forks, kind, name)
            for kind, several in environment.replicas.items()
            for name in several
        ],
    ]


def infrastructure(environment: Environment) -> list[ProcessSpec]:
    """NATS, and Postgres with every schema."""
    return [*(_nats(environment, name) for name in environment.nats), _postgres(environment)]


def _nats(environment: Environment, name: str) -> ProcessSpec:
    directory = environment.data_dir.nats(name)
    port = environment.ports[name]
    config = directory / "nats.conf"
    cluster = None
    if len(environment.nats) > 1:
        routes = {other: environment.ports[f"{other}-routes"] for other in environment.nats}
        cluster = nats_server.Cluster(name, routes, environment.identities.nats_routes)

    def prepare() -> None:
        nats_server.write_config(
            config,
            port=port,
            store_dir=directory / "store",
            accounts=bus_accounts.accounts(environment.identities.nats_users),
            cluster=cluster,
        )

    return ProcessSpec(
        name=name,
        command=nats_server.command(config),
        env=environment.base,
        cwd=environment.data_dir.root,
        prepare=prepare,
        is_ready=lambda: nats_server.is_ready(port),
        url=f"nats://{LOOPBACK}:{port}",
    )


def _postgres(environment: Environment) -> ProcessSpec:
    cluster = environment.cluster

    def on_ready() -> None:
        known = environment.identities
        postgres_roles.provision(
            cluster.dsn(),
            cluster.dsn(postgres_roles.DATABASE),
            known.postgres_roles,
            known.postgres_owners,
        )
        _migrate(environment)

    return ProcessSpec(
        name="postgres",
        command=cluster.command(),
        env=environment.base,
        cwd=environment.data_dir.root,
        prepare=cluster.prepare,
        is_ready=cluster.is_ready,
        on_ready=on_ready,
        user=run_as(),
        # A fast shutdown (SIGTERM's would wait for clients); without a parent, an immediate one
        # (after SIGKILL its backends would stay a while).
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGQUIT,
    )


def _migrate(environment: Environment) -> None:
    """Bring every service's schema up to date. Raises StackError with what went wrong."""
    with psycopg.connect(environment.cluster.dsn(postgres_roles.DATABASE)) as connection:
        if is_migrated(connection, environment.identities.postgres_owners):
            return
    schemas = [
        (
            environment.cluster.dsn(
                postgres_roles.DATABASE, user=postgres_roles.owner(service), password=password
            ),
            service,
        )
        for service, password in environment.identities.postgres_owners.items()
    ]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "webhost_local.migrating"],
        input=msgspec.json.encode(schemas),
        env=environment.base,
        cwd=environment.data_dir.root,
        capture_output=True,
        check=False,
    )
    if ended.returncode != 0:
        said = ended.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise StackError(f"the migrations failed: {said[-1]}")


def _service(environment: Environment, forks: ForkServer, kind: str, name: str) -> ProcessSpec:
    env, ops = environment.service(kind, name), f"{name}-ops"
    return _python(environment, forks, name, package_of(kind), env, ops)


def _python(
    environment: Environment,
    forks: ForkServer,
    name: str,
    module: str,
    env: dict[str, str],
    probed: str,
) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        command=Module(module, forks),
        env=env,
        cwd=environment.data_dir.root,
        is_ready=lambda: is_ready(environment.ports[probed]),
        why_not=lambda: why_not_ready(environment.ports[probed]),
        url=environment.url(name if name in environment.ports else probed),
    )


def is_ready(port: int) -> bool:
    """A check whether /readyz on this port reports ready."""
    status, _ = _readyz(port)
    return status == HTTPStatus.OK


def why_not_ready(port: int) -> str | None:
    """What an operator has to do before /readyz on this port says yes, where that is known."""
    _, said = _readyz(port)
    return "halted: see `webhost streams status`" if "halted: " in said else None


def _readyz(port: int) -> tuple[int | None, str]:
    connection = HTTPConnection(LOOPBACK, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, HTTPException):
        return None, ""
    finally:
        connection.close()


def _status(environment: Environment, processes: Sequence[Process]) -> Status:
    keys = environment.identities
    running = [
        RunningProcess(
            process.spec.name,
            process.pid,
            process.spec.url,
            environment.url(ops)
            if (ops := f"{process.spec.name}-ops") in environment.ports
            else None,
        )
        for process in processes
        if process.pid is not None
    ]
    return Status(
        origin=environment.origin,
        processes=running,
        nats_url=environment.nats_url(OPERATOR),
        postgres_dsn=environment.cluster.dsn(postgres_roles.DATABASE),
        cloudflare=Cloudflare(
            api_base_url=environment.cloudflare_api,
            api_token=keys.cloudflare_api_token,
            account_id=keys.cloudflare_account_id,
            zone_id=keys.cloudflare_zone_id,
        ),
    )


def _welcome(environment: Environment, root: Path, seconds: float) -> str:
    return "\n".join(
        [
            "",
            f"  webhost is ready at {environment.origin} (after {seconds:.1f} s)",
            "",
            f"  alias webhost={Path(sys.executable).with_name('webhost')}",
            f"  export WEBHOST_DATA_DIR={root}",
            f"  export WEBHOST_URL={environment.origin}",
            "  webhost login --subject alice",
            "  webhost agents create my-agent",
            "",
            f"  users sign in at {environment.issuer} (development only); Ctrl-C stops everything",
            "",
        ]
    )
