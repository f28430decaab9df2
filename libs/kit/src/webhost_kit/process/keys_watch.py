"""The platform's keys that a process holds: said to an operator, taken up when their file changes.

Consumes: KEYS_FILE; `rpc.<service>.keys`, to which every process replies. Emits: ids of keys.
Guarantees: a file that is wrong changes nothing, and is logged; no key is in a reply or a log.
On a repeat: a request changes nothing.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource
from webhost_contracts import maintenance, platform_keys, wire
from webhost_contracts.maintenance import KeysReply
from webhost_contracts.platform_keys import Ids

from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.errors import Unavailable
from webhost_kit.process.settings import ServiceSettings

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5


class PlatformKeySettings(ServiceSettings):
    """Settings of a service that holds keys of the platform's."""

    keys_file: Path | None = None
    """A file of `NAME=value` lines with the settings of this service that hold the platform's keys,
    which they then are instead of the variables. It is read again when it changes (replace it
    whole), so that keys are taken up without a restart; only the deployer ends to be started anew.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let what the keys' file says hold instead of the environment."""
        file = os.environ.get("KEYS_FILE")
        keys = [DotEnvSettingsSource(settings_cls, env_file=file)] if file else []
        return (init_settings, *keys, env_settings)

    @field_validator("keys_file")
    @classmethod
    def _keys_file_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("there is no such file")
        return path


S = TypeVar("S", bound=PlatformKeySettings)


async def nothing_more(reply: KeysReply) -> KeysReply:
    """Return the reply of a service that has nothing to add."""
    return reply


class KeysWatch(Generic[S]):
    """Watches the keys of one process. `take_up` gets the settings when their keys have changed,
    `complete` adds to a reply what only the service knows.
    """

    def __init__(
        self,
        service: str,
        bus: Bus,
        settings: S,
        take_up: Callable[[S], None],
        complete: Callable[[KeysReply], Awaitable[KeysReply]] = nothing_more,
    ) -> None:
        self._service = service
        self._bus = bus
        self._settings = settings
        self._take_up = take_up
        self._complete = complete
        self._since_ms = now_ms()

    async def run(self) -> None:
        """Reply, and look at the file, for the lifetime of the process."""
        subject = maintenance.subject(self._service, maintenance.KEYS)
        await self._bus.client.subscribe(subject, cb=self._reply)
        file = self._settings.keys_file
        seen = None if file is None else _stamp(file)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if file is not None and (stamp := _stamp(file)) != seen:
                seen = stamp
                self._look()

    def _look(self) -> None:
        try:
            found = type(self._settings).model_validate({})
        except ValidationError as error:
            problems = [it["msg"] for it in error.errors(include_input=False)]
            log.error("keys not taken up: their file is wrong", problems=problems)
            return
        if _texts(found) == _texts(self._settings):
            return
        self._settings = found
        self._since_ms = now_ms()
        self._take_up(found)
        # No mapping: what stands below the name of a secret setting is redacted.
        log.info("keys taken up", keys=[f"{it}: {', '.join(n)}" for it, n in held(found).items()])

    async def _reply(self, message: Msg) -> None:
        reply = KeysReply(
            process=f"{socket.gethostname()}:{os.getpid()}",
            keys=held(self._settings),
            since_ms=self._since_ms,
        )
        try:
            await message.respond(wire.encode(await self._complete(reply)))
        except (Unavailable, NatsError, TimeoutError, OSError) as error:
            log.warning("keys not said", error=str(error) or type(error).__name__)


def held(settings: PlatformKeySettings) -> dict[str, Ids]:
    """Return the ids of the platform's keys in these settings, by setting."""
    return {name: platform_keys.ids_of(text) for name, text in _texts(settings).items()}


def _texts(settings: PlatformKeySettings) -> dict[str, str]:
    values = {name: getattr(settings, name.lower(), None) for name in platform_keys.SETTINGS}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
