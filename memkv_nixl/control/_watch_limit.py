"""So many watches at once, and no more: calls that only listen leave room for those that do
something. Without it whoever opens a few thousand WatchMaps would lock agents out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from memkv_nixl.control._calls import refuse
from memkv_nixl.control._limits import WATCHES_AT_ONCE_MAX
from memkv_nixl.control._refused import Reason, RefusalError

_OURS = "/memkv.v1."


class WatchLimit(grpc.aio.ServerInterceptor):
    """Sits before WatchMap and WatchEvents."""

    def __init__(self) -> None:
        self._open = 0

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        watches = handler is not None and handler.response_streaming
        if not watches or handler.request_streaming or not details.method.startswith(_OURS):
            return handler
        return grpc.unary_stream_rpc_method_handler(
            self._bounded(handler.unary_stream),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _bounded(self, inside: Any) -> Any:
        async def bounded(request: Any, context: Any) -> AsyncIterator[Any]:
            if self._open >= WATCHES_AT_ONCE_MAX:
                await refuse(
                    context,
                    RefusalError(
                        Reason.WATCHES_FULL,
                        f"{WATCHES_AT_ONCE_MAX} watches are open, the most; end one, or ask GetMap",
                    ),
                )
            self._open += 1
            try:
                async for response in inside(request, context):
                    yield response
            finally:
                self._open -= 1

        return bounded
