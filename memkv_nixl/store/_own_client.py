"""How whoever keeps a memkvd speaks to it, and to its neighbours: as a client of theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from memkv_nixl._config import NodeSettings
from memkv_nixl._stat import parse_stats

_STAT_TIMEOUT_MS = 1000


def data_tls(settings: NodeSettings) -> dict[str, Any]:
    """TLS to any node of the pool: what it shows is the node's own certificate."""
    if settings.data_tls_cert is None:
        return {}
    return {
        "tls_ca": settings.data_tls_ca,
        "tls_cert": settings.data_tls_cert,
        "tls_key": settings.data_tls_key,
    }


def own_data_tls(settings: NodeSettings, address: str) -> dict[str, Any]:
    """TLS to its own memkvd, which listens on `address` and is certified by the name it goes by."""
    tls = data_tls(settings)
    host = (settings.advertise or address).rpartition(":")[0].strip("[]")
    return {**tls, "tls_server_name": host} if tls else {}


class OwnStat:
    """Asks one memkvd how it is."""

    def __init__(self, address: str, token_file: Path, tls: dict[str, Any]) -> None:
        from memkv_nixl._native import Client

        self.address = address
        self._client = Client(
            [address],
            token_file=str(token_file),
            name="memkv-node",
            timeout_ms=_STAT_TIMEOUT_MS,
            **tls,
            follow=False,  # the other nodes of the map do not know its token
        )

    async def ask(self) -> dict[str, int | float | str]:
        return parse_stats(await asyncio.to_thread(self._client.stat, 0, _STAT_TIMEOUT_MS))

    def close(self) -> None:
        self._client.close()
