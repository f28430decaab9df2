"""The edge's pure rules: which route wins, when the API blocks, what a migration may do."""

import pytest
from webhost_local.edge.errors import ApiError
from webhost_local.edge.model import Migration, Migrations, Namespace, Route
from webhost_local.edge.origin import RouteTable
from webhost_local.edge.ratelimit import ApiRateLimit


def script_at(host: str, path: str) -> str | None:
    patterns = [
        "example.com/dep/a/*",
        "example.com/dep/*",
        "https://example.com/exact",
        "*.wild.com/*",
    ]
    table = RouteTable(Route(id=p, pattern=p, script=p) for p in patterns)
    found = table.match(host, path)
    return found.pattern if found else None


@pytest.mark.parametrize(
    ("host", "path", "pattern"),
    [
        ("example.com", "/dep/a/invoke", "example.com/dep/a/*"),
        ("example.com:8443", "/dep/b", "example.com/dep/*"),
        ("127.0.0.1:8787", "/dep/a/invoke", "example.com/dep/a/*"),
        ("example.com", "/exact", "https://example.com/exact"),
        ("example.com", "/exact/more", None),
        ("evil-example.com", "/dep/a/invoke", None),
        ("x.wild.com", "/", "*.wild.com/*"),
        ("wild.com", "/", None),
    ],
)
def test_the_longest_pattern_of_the_host_wins(host: str, path: str, pattern: str | None) -> None:
    assert script_at(host, path) == pattern


def test_passing_the_limit_blocks_for_five_minutes() -> None:
    now = 0.0
    limit = ApiRateLimit(2, clock=lambda: now)
    limit.acquire()
    limit.acquire()
    now = 299.0
    with pytest.raises(ApiError) as blocked:
        limit.acquire()
    assert (blocked.value.status, blocked.value.retry_after) == (429, 301)
    now = 598.0
    with pytest.raises(ApiError):
        limit.acquire()
    now = 599.5
    limit.acquire()


def test_a_renamed_class_keeps_its_storage() -> None:
    before = {"Old": Namespace(key="k", sqlite=True)}
    step = Migration(renamed_classes=[{"from": "Old", "to": "New"}], new_classes=["Other"])
    migrations = Migrations(old_tag="v1", new_tag="v2", steps=[step])
    after = migrations.apply(before, "v1", lambda: "fresh")
    assert after == {
        "New": Namespace(key="k", sqlite=True),
        "Other": Namespace(key="fresh", sqlite=False),
    }
    with pytest.raises(ApiError) as stale:
        migrations.apply(before, "v0", lambda: "fresh")
    assert stale.value.code == 10079
    with pytest.raises(ApiError) as again:
        Migrations(new_sqlite_classes=["Old"]).apply(before, None, lambda: "fresh")
    assert again.value.code == 10074
