"""How an agent is called without this command: its public address, and a line for curl."""

from webhost_cli.client import Api

_BODY = '{"input": {"prompt": "Hello"}}'


def invoke_url(api: Api, agent_id: str) -> str:
    """The agent's public address, which stays the same whatever is deployed."""
    return f"{api.origin}/v1/invoke/{agent_id}"


def curl_line(url: str) -> str:
    """A command that calls the agent, for a shell where WEBHOST_TOKEN is set."""
    return (
        f'curl {url} -H "Authorization: Bearer $WEBHOST_TOKEN"'
        f" -H 'Content-Type: application/json' -d '{_BODY}'"
    )
