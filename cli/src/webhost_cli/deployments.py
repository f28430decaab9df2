"""`webhost deploy`, `webhost deployments …`, `webhost activate`"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from webhost_local.terminal import plain_line

from webhost_cli import output, waiting
from webhost_cli.calling import curl_line, invoke_url
from webhost_cli.client import Api, Json
from webhost_cli.connection import with_api
from webhost_cli.errors import ApiError, CommandError, ExitCode
from webhost_cli.lookup import agent_id, deployment_id, deployment_path
from webhost_cli.options import AgentArgument, CursorOption, JsonOption, LimitOption

MOST_BUNDLE_BYTES = 10 * 1024 * 1024

DeploymentArgument = Annotated[str, typer.Argument(help="The deployment's id, or AGENT/VERSION.")]


def register(app: typer.Typer) -> None:
    app.command()(with_api(deploy))
    app.command()(with_api(activate))
    group = typer.Typer(name="deployments", help="Inspect deployments.", no_args_is_help=True)
    group.command("list")(with_api(list_deployments))
    group.command()(with_api(get))
    group.command()(with_api(source))
    group.command()(with_api(logs))
    app.add_typer(group)


def deploy(
    api: Api,
    agent: AgentArgument,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="The JavaScript module; by default, the template."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A zip or tar.gz archive of modules, with agent.config.json at its top.",
        ),
    ] = None,
    activate: Annotated[bool, typer.Option(help="Send calls to it as soon as it is ready.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready, or has failed.")] = True,
    commit: Annotated[str | None, typer.Option(help="The commit it was made from.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy a new version of an agent."""
    body: dict[str, Any] = {"setAsActive": activate}
    if file is not None and bundle is not None:
        raise CommandError("give --file or --bundle, not both", ExitCode.USAGE)
    if file is not None and file.suffix not in (".js", ".mjs"):
        raise CommandError(
            f"{file.name} is no .js or .mjs file; TypeScript has to be compiled first",
            ExitCode.USAGE,
        )
    if file is not None:
        body |= {"moduleCode": _read(file), "mainModuleName": file.name}
    if commit is not None:
        body["commitHash"] = commit
    at = agent_id(api, agent)
    if bundle is not None:
        body["uploadId"] = _uploaded(api, bundle)
    deployment = api.start(f"/v1/agents/{at}/deploy", body)["deployment"]
    if wait:
        deployment = _wait(api, deployment, quiet=as_json)
    url = invoke_url(api, at)
    _show({"deployment": deployment, "invokeUrl": url}, as_json)
    if error := waiting.failed(deployment):
        raise error
    if deployment["status"] == "active" and not as_json:
        output.say(f"\n{curl_line(api, url)}")


def activate(
    api: Api,
    agent: AgentArgument,
    deployment: Annotated[str, typer.Argument(help="The deployment's id or version.")],
    reason: Annotated[str | None, typer.Option(help="The reason, for the audit log.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send calls to another deployment, for instance back to an older one."""
    at = agent_id(api, agent)
    body = {} if reason is None else {"reason": reason}
    path = f"/v1/agents/{at}/deployments/{deployment_id(api, at, deployment)}/activate"
    _show(api.post(path, body), as_json)


def list_deployments(
    api: Api,
    agent: AgentArgument,
    status: Annotated[str | None, typer.Option(help="Only those in this status.")] = None,
    limit: LimitOption = 25,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an agent's deployments, newest first."""
    path = f"/v1/agents/{agent_id(api, agent)}/deployments"
    answer = api.get(path, status=status, limit=limit, cursor=cursor)
    if as_json:
        output.print_json(answer)
        return
    output.print_table(
        ("version", "id", "status", "created", "commit", "error"),
        [
            (
                d["version"],
                d["id"],
                d["status"],
                output.when(d["createdAtMs"]),
                d.get("commitHash"),
                d.get("errorMessage"),
            )
            for d in answer["deployments"]
        ],
    )
    output.print_more(answer)


def get(api: Api, deployment: DeploymentArgument, as_json: JsonOption = False) -> None:
    """Show one deployment, and why it failed if it did."""
    answer = api.get(deployment_path(api, deployment))
    _show(answer, as_json)
    if (reason := waiting.failure(answer["deployment"])) and not as_json:
        output.say(f"\n{reason}")


def source(api: Api, deployment: DeploymentArgument, as_json: JsonOption = False) -> None:
    """Print the code of a deployment."""
    answer = api.get(f"{deployment_path(api, deployment)}/source")
    if as_json:
        output.print_json(answer)
        return
    modules = answer["modules"]
    for module in modules:
        if len(modules) > 1:
            output.say(f"// {module['name']}")
        if "encoding" in module:
            output.say(f"({module['encoding']}) {module['content']}")
        else:
            output.say(module["content"])


def logs(
    api: Api,
    deployment: DeploymentArgument,
    limit: LimitOption = 25,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each attempt at each step of a deployment, newest first."""
    answer = api.get(f"{deployment_path(api, deployment)}/logs", limit=limit, cursor=cursor)
    if as_json:
        output.print_json(answer)
        return
    output.print_table(
        ("time", "event", "step", "attempt", "took", "error"),
        [
            (
                output.when(line["atMs"]),
                line["type"],
                line.get("step"),
                line.get("attempt"),
                _took(line),
                _reason(line.get("error")),
            )
            for line in answer["lines"]
        ],
    )
    output.print_more(answer)


def _took(line: Json) -> str | None:
    began = line.get("startedAtMs")
    return None if began is None else f"{(line['atMs'] - began) / 1000:.1f} s"


def _reason(error: Json | None) -> str | None:
    """Return what failed, and in the provider's words, if it said anything, why."""
    if error is None:
        return None
    details: Json = error.get("details") or {}
    said = str(details.get("providerMessage") or "").strip()
    return error["message"] + (f" ({said.splitlines()[0]})" if said else "")


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text", ExitCode.USAGE) from error


def _uploaded(api: Api, bundle: Path) -> str:
    if bundle.stat().st_size > MOST_BUNDLE_BYTES:
        raise CommandError(f"{bundle.name} is over 10 MiB, the most there may be", ExitCode.USAGE)
    return api.upload("/v1/uploads", bundle.read_bytes())["upload"]["id"]


def _wait(api: Api, deployment: Json, *, quiet: bool) -> Json:
    name = f"{plain_line(deployment['id'])} (version {deployment['version']})"
    try:
        if not sys.stderr.isatty():
            if not quiet:
                output.aside(f"deploying {name}", style=None)
            return waiting.until_ended(api, deployment, lambda _: None)
        with output.errors().status("") as line:
            return waiting.until_ended(
                api, deployment, lambda passed_s: line.update(f"deploying {name}  {passed_s:.0f} s")
            )
    except ApiError as error:
        if not error.lacks_scope:
            raise
        note = f"{name} was accepted; this key may not watch it (scope `read`)"
        output.aside(note, style=None)
        return deployment
    except KeyboardInterrupt:
        output.aside(f"no longer waiting; {name} continues in the background", style=None)
        raise


def _show(answer: Json, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
        return
    deployment = answer["deployment"]
    artifact = deployment["artifact"]
    reached = deployment["status"] == "active"
    output.print_fields(
        [
            ("id", deployment["id"]),
            ("agent", deployment["agentId"]),
            ("version", deployment["version"]),
            ("status", deployment["status"]),
            ("runtime", deployment["runtimeProvider"]),
            ("artifact", f"{artifact['type']}, {artifact['sizeBytes']} bytes"),
            ("checksum", artifact["checksum"]),
            ("commit", deployment.get("commitHash")),
            ("created", output.when(deployment["createdAtMs"])),
            ("deployed", output.when(deployment.get("deployedAtMs"))),
            ("error", deployment.get("errorMessage")),
            ("address", answer.get("invokeUrl") if reached else None),
        ]
    )
