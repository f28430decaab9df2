"""How the servers of the bus are named: one URL, or those of a cluster, with commas between."""


def servers_of(urls: str) -> list[str]:
    """Return the URL of each server."""
    return [url.strip() for url in urls.split(",") if url.strip()]
