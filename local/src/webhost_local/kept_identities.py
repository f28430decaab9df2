"""The identities of one local stack, made once and kept in `secrets.json` (0600)."""

import msgspec
from webhost_contracts.platform_keys import Kind

from webhost_local.data_dir import DataDir, StackError, write_whole
from webhost_local.installation.identities import FIRST_KEYS, KEY_HOLDERS, Identities


def load_or_make(data_dir: DataDir) -> Identities:
    """Read the identities, and make what is missing. The caller holds the directory's lock."""
    file = data_dir.secrets
    kept = file.read_bytes() if file.exists() else b"{}"
    identities = msgspec.json.decode(kept, type=Identities)
    complete = msgspec.json.format(msgspec.json.encode(identities))
    if complete != kept:
        write_whole(file, complete.decode())
    return identities


def load(data_dir: DataDir) -> Identities:
    """Read the identities. Raises StackError where no stack has ever run."""
    if not data_dir.secrets.exists():
        raise StackError(f"no stack has run in {data_dir.root}: start one with `webhost up`")
    return msgspec.json.decode(data_dir.secrets.read_bytes(), type=Identities)


def write_keys(data_dir: DataDir, identities: Identities) -> None:
    """Write each service's file of platform keys, from which it takes them up while it runs."""
    data_dir.keys.mkdir(mode=0o700, exist_ok=True)
    for service in KEY_HOLDERS:
        write_whole(data_dir.keys / service, identities.keys_file_of(service))


def advance(data_dir: DataDir, kind: Kind) -> None:
    """Take a kind of key one phase on, in the identities and then in the services' files."""
    identities = load_or_make(data_dir)
    ring = identities.rings[kind.name] = identities.ring(kind).advanced()
    if ring.new is None:  # nothing of the key that was dropped is kept
        setattr(identities, FIRST_KEYS[kind.name], ring.seeds[ring.old])
    text = msgspec.json.format(msgspec.json.encode(identities)).decode()
    write_whole(data_dir.secrets, text)
    write_keys(data_dir, identities)
