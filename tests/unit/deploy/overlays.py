"""The overlays, rendered once."""

from functools import cache

from deploy.rendering import Object, render


@cache
def rendered(variant: str) -> list[Object]:
    """Return the objects of a variant; nobody may change them."""
    return render(variant)
