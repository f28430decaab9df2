"""A `tls://` address means TLS from the first byte, to a server that proves who it is."""

import asyncio
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_kit.bus.connection import connect
from webhost_kit.bus.rpc import RequestServer, call
from webhost_local import nats_server
from webhost_local.installation.nats_config import Account, NatsUser
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.harness import in_background
from tests.support.processes import ServerProcess

USER = NatsUser("u", "the-password")
REQUEST = SetTierRequest(user_id="usr_1", tier="pro", operator="o")


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.fixture
def tls_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A nats-server that speaks TLS alone, with a certificate that this process trusts."""
    certificate_file, key_file = certificate(tmp_path)
    port, config, store = free_port(), tmp_path / "nats.conf", tmp_path / "store"
    store.mkdir()
    nats_server.write_config(config, port=port, store_dir=store, accounts={"T": Account([USER])})
    tls = {
        "cert_file": str(certificate_file),
        "key_file": str(key_file),
        "handshake_first": True,
    }
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tls": tls}))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
    server = ServerProcess(
        nats_server.command(config), port=port, directory=store, is_ready=lambda: listens(port)
    )
    server.start()
    yield f"tls://{USER.name}:{USER.password}@localhost:{port}"
    server.stop()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.accept("6.D3")
async def test_connection_and_requests_go_over_tls(tls_url: str) -> None:
    async def handle(request: SetTierRequest) -> SetTierReply:
        return SetTierReply(tier=request.tier)

    server = RequestServer(tls_url, "billing")
    server.serve("rpc.billing.set-tier", handle)
    await server.start()
    bus = await connect(tls_url, "api")
    assert (await call(bus, "rpc.billing.set-tier", REQUEST, SetTierReply)).tier == "pro"
    await bus.close()
    await server.close()


@pytest.mark.accept("6.D3")
async def test_a_certificate_that_is_not_trusted_is_refused(
    tls_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await connect(tls_url, "api")


@pytest.mark.accept("6.D3")
async def test_nothing_is_said_to_a_server_that_offers_plain_text() -> None:
    heard = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n')
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def spoke() -> bool:
        return bool(heard)

    async with in_background(connect(f"tls://u:the-password@localhost:{port}", "api")):
        await eventually(spoke, "the client to say something")
    server.close()
    assert heard[:1] == b"\x16", "a TLS handshake, not a line of NATS"
    assert b"the-password" not in heard
