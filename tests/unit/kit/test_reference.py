"""The configuration reference says all that a service reads, and what is secret."""

import pytest
from pydantic import SecretStr
from webhost_kit.process.reference import Variable, document, settings_of, variables
from webhost_kit.process.settings import ServiceSettings

SERVICES = ("api", "billing", "deployer", "gateway", "telemetry-ingest")


class Settings(ServiceSettings):
    """A service's."""

    api_key: SecretStr
    """Opens it."""
    slots: int = 3
    """How many."""


class Silent(ServiceSettings):
    """A service's, whose variable says nothing of itself."""

    slots: int = 3


def test_each_variable_has_its_type_default_and_meaning() -> None:
    _, *own = [one for one in variables(Settings) if "WEBHOST" not in one.name][-3:]
    assert own == [
        Variable("API_KEY", "text", True, None, True, "Opens it."),
        Variable("SLOTS", "integer", False, "3", False, "How many."),
    ]


def test_a_variable_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="slots has no docstring"):
        list(variables(Silent))


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_of_a_service_is_in_the_page(service: str) -> None:
    settings = settings_of(service)
    page = document({service: settings})
    for name, field in settings.model_fields.items():
        assert f"| `{name.upper()}` |" in page
        secret = "SecretStr" in str(field.annotation)
        row = next(line for line in page.splitlines() if f"`{name.upper()}`" in line[:60])
        assert (" | yes | " in row) is secret


def test_a_variable_that_several_services_read_stands_once() -> None:
    page = document({"one": Settings, "two": Settings})
    assert page.count("`API_KEY`") == 1
    assert "## Every service" in page
