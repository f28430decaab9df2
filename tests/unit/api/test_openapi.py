"""docs/openapi.json is what the program says of itself."""

from pathlib import Path

from webhost_api.openapi import document

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_committed_document_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == document()


def test_every_answer_that_is_no_success_is_documented_as_the_envelope() -> None:
    assert "HTTPValidationError" not in document()
