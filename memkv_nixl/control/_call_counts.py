"""Counts every call of ours as it is answered: by method and status, and how long it took."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from memkv_nixl._metrics import Durations

_OURS = "/memkv.v1."
BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class CallCounts(grpc.aio.ServerInterceptor):
    """Sits before the services. Methods are those of the .proto files, so there are few.

    `ended` has (method, status) → calls; `took` how long those with one answer took; `streams` how
    many calls that answer on and on are open.
    """

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        self.took: defaultdict[str, Durations] = defaultdict(lambda: Durations(BOUNDS_S))
        self.streams: Counter[str] = Counter()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        method = details.method.removeprefix(_OURS)
        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(
                self._call(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        make = grpc.stream_stream_rpc_method_handler
        inside = handler.stream_stream
        if not handler.request_streaming:
            make, inside = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        return make(
            self._stream(method, inside), handler.request_deserializer, handler.response_serializer
        )

    def _call(self, method: str, inside: Any) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            began = time.monotonic()
            try:
                with self._ending(method, context):
                    return await inside(request, context)
            finally:
                self.took[method].count(time.monotonic() - began)

        return counted

    def _stream(self, method: str, inside: Any) -> Any:
        async def counted(requests: Any, context: Any) -> AsyncIterator[Any]:
            self.streams[method] += 1
            try:
                with self._ending(method, context):
                    async for response in inside(requests, context):
                        yield response
            finally:
                self.streams[method] -= 1

        return counted

    @contextmanager
    def _ending(self, method: str, context: Any) -> Iterator[None]:
        status = "UNKNOWN"
        try:
            yield
            status = "OK"
        except (asyncio.CancelledError, GeneratorExit):
            status = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = context.code()
            status = code.name if isinstance(code, grpc.StatusCode) else _name_of(code)
            raise
        finally:
            self.ended[method, status] += 1


def _name_of(code: Any) -> str:
    names = {status.value[0]: status.name for status in grpc.StatusCode}
    return names.get(code, "UNKNOWN")
