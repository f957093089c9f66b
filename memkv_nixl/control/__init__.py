"""The control plane: which nodes there are, what is settled about namespaces, who may come in.

`memkv control serve` runs it; docs/formats/control.md is its interface. It is never on the path of
a block: when it is down, reads and writes go on with the last map.

    _state      membership, a machine without I/O     _tenancy   namespaces and tenants, likewise
    _cluster    what is remembered                    _snapshot  … on disk
    _keeper     changes, writes, publishes            _server    the gRPC services on a port
"""
