"""How an agent is called without this command: its public address, and a line for curl."""

from webhost_cli.client import Api

_BODY = '{"input": {"prompt": "Hello"}}'


def invoke_url(api: Api, agent_id: str) -> str:
    """The agent's public address, which stays the same whatever is deployed."""
    return f"{api.origin}/v1/invoke/{agent_id}"


def curl_line(api: Api, url: str) -> str:
    """A command that calls the agent, as the same user."""
    return (
        f'curl {url} -H "Authorization: Bearer {api.shell_bearer}"'
        f" -H 'Content-Type: application/json' -d '{_BODY}'"
    )
