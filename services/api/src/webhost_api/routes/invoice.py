"""The preview of an invoice, requested from billing; as JSON, and as a page to print."""

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import InvoiceReply, InvoiceRequest
from webhost_kit.bus import rpc

from webhost_api import invoice_page, queries
from webhost_api.dependencies import CurrentCaller, Deps, Period
from webhost_api.handlers import Caller
from webhost_api.http import Dependencies, UserRoute, answered
from webhost_api.schemas.invoice import InvoiceResponse, InvoiceSchema, invoice_schema

router = APIRouter(tags=["usage"], route_class=UserRoute)


@router.get("/v1/billing/invoice", response_model=InvoiceResponse)
async def invoice(deps: Deps, caller: CurrentCaller, period: Period = None) -> Response:
    """What the caller's usage of a period comes to, by agent and day; an estimate."""
    return answered(InvoiceResponse(invoice=await _invoice(deps, caller, period)))


@router.get(
    "/v1/billing/invoice.html",
    response_class=HTMLResponse,
    responses={
        200: {
            "description": "The page, which needs nothing else.",
            "content": {"text/html": {"schema": {"type": "string"}, "example": "<!doctype html>"}},
        }
    },
)
async def invoice_to_print(deps: Deps, caller: CurrentCaller, period: Period = None) -> Response:
    """The same as a page to print."""
    page = invoice_page.page(await _invoice(deps, caller, period))
    return HTMLResponse(page, headers=invoice_page.HEADERS)


async def _invoice(deps: Dependencies, caller: Caller, period: str | None) -> InvoiceSchema:
    period = period or period_key(caller.metadata.at_ms)
    request = InvoiceRequest(user_id=caller.user_id, period_key=period)
    reply = await rpc.call(deps.bus, subjects.RPC_INVOICE, request, InvoiceReply)
    of_lines = {line.agent_id for line in reply.lines if line.agent_id is not None}
    async with deps.database.transaction() as connection:
        names = await queries.agent_names(connection, caller.user_id, of_lines)
    return invoice_schema(caller.user_id, period, reply, names)
