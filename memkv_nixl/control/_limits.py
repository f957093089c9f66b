"""Every limit of the control plane; at one the answer is a refusal that names it."""

from __future__ import annotations

NODES_MAX = 1024  # kNodesMax of the wire's map
WEIGHT_MAX = 1_000_000  # kWeightMax
ADDRESS_BYTES_MAX = 256  # kAddressBytesMax
DOMAIN_BYTES_MAX = 64
SOFTWARE_BYTES_MAX = 64
REMOVED_MAX = 1024  # memberships remembered so that their agents do not come back by themselves
STATS_MAX = 512  # numbers in one heartbeat; three of them for each of 64 namespaces and tenants
STAT_NAME_BYTES_MAX = 64

NAMESPACES_MAX = 16384
NAME_BYTES_MAX = 1024
COPIES_MAX = 2
QUOTA_BYTES_MAX = 2**63 - 1
TTL_S_MAX = 2**32 - 1

TENANTS_MAX = 1024
TENANT_NAME_BYTES_MAX = 64
KEYS_PER_TENANT_MAX = 8
REVOKED_MAX = 16384  # tokens of all tenants together, each for a year
LIFETIME_S_MAX = 365 * 24 * 3600
TOKEN_NAMESPACES_MAX = 64

GROUPS_PER_LOCATE_MAX = 1024
RANKED_MAX = 16
EVENTS_MAX = 1024  # remembered
FORMERS_MAX = 3  # kFormersMax of the wire's map
FORMER_S = 600.0  # for so long the map has the shares before a change, too: kOldMapMs
REASON_BYTES_MAX = 200  # of an operator's words on why
EPOCH_FIRST = 2  # a node without a control plane says 1
EPOCH_MAX = 2**32 - 1
EPOCH_LEAP_MAX = 2**24  # what a node may know more than a control plane that lost its memory

ETCD_PART_BYTES_MAX = 1 << 20  # of the state in one request; etcd takes 1.5 MiB
ETCD_ANSWER_BYTES_MAX = 256 << 20  # the whole state, at its limits, is less

MESSAGE_BYTES_MAX = 1 << 20  # of one request
CALLS_AT_ONCE_MAX = 4096
WATCHES_AT_ONCE_MAX = 2048  # of those calls; 1,024 agents and their calls fit beside them
REFLECTIONS_AT_ONCE_MAX = 64  # likewise, by tools in people's hands
CONNECTIONS_MAX = 4096  # whoever they are: each of 1,024 agents may have come back twice
HANDSHAKE_DEADLINE_S = 2.0  # until a peer has said who it is and what it speaks
CALL_DEADLINE_S = 10.0  # of a call that names none
CONNECTION_IDLE_S = 60.0  # without a call
HELLO_DEADLINE_S = 5.0
