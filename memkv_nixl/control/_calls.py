"""What all calls share: their deadline, and refusals as gRPC statuses with details.

A refusal travels as a status whose details hold a google.rpc.ErrorInfo: `reason` is the word of
`Reason`, `domain` is DOMAIN, and `metadata` names the `leader` where that is another replica.
Whatever else goes wrong inside is INTERNAL and in the log, and its text does not leave the process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from memkv_nixl.control._limits import CALL_DEADLINE_S
from memkv_nixl.control._refused import Reason, RefusalError

DOMAIN = "memkv"
STATUS_OF = {
    Reason.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NODE_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Reason.NODE_REMOVED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NODE_SERVES: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NODE_TAKEN_OVER: grpc.StatusCode.ABORTED,
    Reason.NODES_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.EPOCH_IMPLAUSIBLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NAMESPACE_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Reason.NAMESPACE_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.NAMESPACES_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.GENERATION_UNKNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TENANT_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Reason.TENANT_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.TENANT_BUILT_IN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TENANTS_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.KEY_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Reason.KEY_SIGNS: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEYS_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.REVOKED_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STATE_UNWRITABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.NOT_LEADER: grpc.StatusCode.UNAVAILABLE,
    Reason.STREAM_BROKEN: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_SLOW: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.WATCHES_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_log = logging.getLogger(__name__)
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[Any, Any]


def call(
    handler: Callable[[Any, _Request], Awaitable[_Response]],
) -> Callable[[Any, _Request, _Context], Awaitable[_Response]]:
    """A call with one answer. It ends at its caller's deadline, and at ours where it has none."""

    @functools.wraps(handler)
    async def answered(self: Any, request: _Request, context: _Context) -> _Response:
        try:
            return await asyncio.wait_for(handler(self, request), CALL_DEADLINE_S)
        except asyncio.TimeoutError:
            late = RefusalError(
                Reason.TOO_SLOW, f"no answer within {CALL_DEADLINE_S:g} s; try again"
            )
            await refuse(context, late)
        except RefusalError as refusal:
            await refuse(context, refusal)
        except Exception as error:  # noqa: BLE001 - logged and answered
            await _broken(context, error)

    return answered


def stream(
    handler: Callable[[Any, _Request, _Context], AsyncIterator[_Response]],
) -> Callable[[Any, _Request, _Context], AsyncIterator[_Response]]:
    """A call that answers on and on."""

    @functools.wraps(handler)
    async def answered(self: Any, request: _Request, context: _Context) -> AsyncIterator[_Response]:
        try:
            async for response in handler(self, request, context):
                yield response
        except RefusalError as refusal:
            await refuse(context, refusal)
        except Exception as error:  # noqa: BLE001 - logged and answered
            await _broken(context, error)

    return answered


async def refuse(context: _Context, refusal: RefusalError) -> NoReturn:
    """Ends the call with the status that stands for the refusal."""
    more = {"leader": refusal.leader} if refusal.leader else {}
    info = error_details_pb2.ErrorInfo(reason=refusal.reason.name, domain=DOMAIN, metadata=more)
    detail = any_pb2.Any()
    detail.Pack(info)
    code = STATUS_OF[refusal.reason]
    status = rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message=str(refusal), details=[detail])
    )
    await context.abort(code, str(refusal), status.trailing_metadata)
    raise AssertionError("abort() does not come back")


async def _broken(context: _Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):  # from within: the call has its status
        raise error
    _log.error("a call ended with a broken invariant", exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL, "a broken invariant of the control plane; its log has more"
    )
    raise AssertionError("abort() does not come back")
