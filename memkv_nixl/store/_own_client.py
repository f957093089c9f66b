"""How whoever keeps a memkvd speaks to it, and to its neighbours: as a client of theirs."""

from __future__ import annotations

from typing import Any

from memkv_nixl._config import NodeSettings


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
