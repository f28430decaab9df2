"""What the gateway is compared with: the Worker itself, and nginx in front of it."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from webhost_local.ports import LOOPBACK, free_port

from bench.harness import NotMeasured
from bench.servers import ROOT, process
from bench.tools import require

WORKERD = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "main", worker = .worker) ],
  sockets = [ (name = "http", address = "{address}", http = (), service = "main") ] );
const worker :Workerd.Worker = (
  modules = [ (name = "worker.mjs", esModule = embed "worker.mjs") ],
  compatibilityDate = "2026-01-01" );
"""

NGINX = """
daemon off;
pid nginx.pid;
worker_processes 1;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 1000000000;
  upstream worker {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://worker;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Upstream:
    """A running server: where it answers, and its process."""

    port: int
    pid: int


@contextmanager
def worker(directory: Path) -> Generator[Upstream]:
    """Run workerd with the trivial Worker."""
    found = sorted(ROOT.glob("node_modules/@cloudflare/workerd-*/bin/workerd"))
    if not found:
        raise NotMeasured("workerd is not installed: make setup")
    port = free_port()
    config = directory / "workerd.capnp"
    config.write_text(WORKERD.format(address=f"{LOOPBACK}:{port}"))
    (directory / "worker.mjs").write_bytes(Path(__file__).with_name("worker.mjs").read_bytes())
    command = [found[0], "serve", config]
    with process("workerd", command, directory=directory, is_ready=lambda: listens(port)) as pid:
        yield Upstream(port, pid)


@contextmanager
def nginx(directory: Path, upstream_port: int) -> Generator[Upstream]:
    """Run nginx, one worker process, as a reverse proxy with kept connections."""
    port = free_port()
    prefix = directory / "nginx"
    prefix.mkdir()
    config = prefix / "nginx.conf"
    config.write_text(
        NGINX.format(address=f"{LOOPBACK}:{port}", upstream=f"{LOOPBACK}:{upstream_port}")
    )
    command = [require("nginx"), "-p", f"{prefix}{os.sep}", "-c", config]
    with process("nginx", command, directory=directory, is_ready=lambda: listens(port)) as pid:
        yield Upstream(port, pid)


def listens(port: int) -> bool:
    """Say whether anything accepts connections on this port."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
