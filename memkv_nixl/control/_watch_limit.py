"""So many watches at once, and no more: calls that only listen leave room for those that do
something. Without it whoever opens a few thousand WatchMaps would lock agents out."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from memkv_nixl.control._calls import refuse
from memkv_nixl.control._limits import REFLECTIONS_AT_ONCE_MAX, WATCHES_AT_ONCE_MAX
from memkv_nixl.control._refused import Reason, RefusalError

_REFLECTION = "/grpc.reflection."


class WatchLimit(grpc.aio.ServerInterceptor):
    """Sits before WatchMap, WatchEvents and the Watch of grpc.health.v1, which count together, and
    before reflection, whose streams stay open as long as their caller likes. Agents' streams are
    none of these."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not handler.response_streaming:
            return handler
        make, inside = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        kind, most = "watches", WATCHES_AT_ONCE_MAX
        if handler.request_streaming:
            if not details.method.startswith(_REFLECTION):
                return handler
            make, inside = grpc.stream_stream_rpc_method_handler, handler.stream_stream
            kind, most = "streams of reflection", REFLECTIONS_AT_ONCE_MAX
        return make(
            self._bounded(inside, kind, most),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _bounded(self, inside: Any, kind: str, most: int) -> Any:
        async def generates(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(context, kind, most)
            with self._counted(kind):
                async for response in inside(request, context):
                    yield response

        async def writes(request: Any, context: Any) -> None:
            await self._check(context, kind, most)
            with self._counted(kind):
                await inside(request, context)

        return generates if inspect.isasyncgenfunction(inside) else writes

    async def _check(self, context: Any, kind: str, most: int) -> None:
        if self._open[kind] >= most:
            sentence = f"{most} {kind} are open, the most; end one, or make a call with one answer"
            await refuse(context, RefusalError(Reason.WATCHES_FULL, sentence))

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        self._open[kind] += 1
        try:
            yield
        finally:
            self._open[kind] -= 1
