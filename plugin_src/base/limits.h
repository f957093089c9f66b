// Every limit of the store in one place. At a limit the answer is a clear status; nothing grows
// without bound. A number that appears in a format (docs/formats) is marked (format): changing it
// is a new format version.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memkv {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;

// blocks and keys
inline constexpr std::uint64_t kBlockBytesMax = 64 * kMiB;  // (format)
inline constexpr std::size_t kKeyBytesMax = 512;            // (format)
inline constexpr std::uint32_t kUnitBytesMin =
    64 * 1024;  // (format) the smallest unit that has a CRC of its own
inline constexpr std::size_t kUnitsMax = 512;  // (format)

// frames
inline constexpr std::uint32_t kBodyBytesMax = 1024 * 1024;   // (format) one frame's body
inline constexpr std::uint32_t kDataBytesMax = 256 * 1024;    // (format) payload of one DATA frame
inline constexpr std::uint32_t kBodyBytesBeforeHello = 4096;  // what a stranger may send
inline constexpr std::uint32_t kItemsMax = 16384;             // (format) keys in one MATCH or DROP
inline constexpr std::uint32_t kBatchMax = 4096;              // (format) blocks in one PUT or GET
inline constexpr std::size_t kTokenBytesMax = 2048;           // (format)
inline constexpr std::size_t kProofBytesMax = 512;            // (format)
inline constexpr std::size_t kTextBytesMax = 1024;            // (format) a sentence in a frame
inline constexpr std::size_t kNameBytesMax = 64;              // (format) who a peer says it is
inline constexpr std::size_t kAddressBytesMax = 256;          // (format)
inline constexpr std::uint32_t kNodesMax = 1024;              // (format) nodes in one map
inline constexpr std::uint32_t kListMax = 1024;               // (format) blocks in one LIST
inline constexpr std::uint8_t kCopiesMax = 2;     // (format) nodes that a namespace's blocks lie on
inline constexpr std::uint32_t kStaticEpoch = 1;  // (format) of a node without a control plane
inline constexpr std::uint32_t kNamespacesMax = 16384;    // (format) with rules, in one map
inline constexpr std::uint32_t kTenantsMax = 1024;        // (format) in one map
inline constexpr std::uint32_t kEpochLeapMax = 1u << 24;  // (format) from one map to the next

// one step of a hand
inline constexpr std::size_t kSliceBytes = 256 * 1024;
inline constexpr std::size_t kStepPiecesMax = 64;      // pieces of memory that one step moves
inline constexpr std::size_t kSystemPiecesMax = 1024;  // IOV_MAX: what one system call takes

// a node
inline constexpr std::size_t kPeersMax = 1024;
inline constexpr std::size_t kRequestsPerPeerMax = 256;
inline constexpr std::size_t kItemsPerPeerMax = 2 * kBatchMax;  // blocks a peer may have queued
inline constexpr std::uint64_t kGetBytesInFlightPerPeer = 64 * kMiB;  // pinned for one peer
inline constexpr std::uint64_t kPutBytesGrantedPerPeer =
    128 * kMiB;  // granted and not yet committed
inline constexpr std::uint64_t kReplyBytesQueuedPerPeer =
    16 * kMiB;  // frames waiting for a peer that does not read
inline constexpr std::uint64_t kHelloDeadlineMs = 2000;
inline constexpr std::uint64_t kPeerStallMs =
    15'000;  // a peer that owes bytes and moves none is dropped
inline constexpr std::uint64_t kPaceBytesPerSecond =
    32 * kMiB;  // that peers move who hold all of the arena while others wait for memory, at least
inline constexpr std::uint64_t kPaceMs = 2000;  // over which that is judged
inline constexpr std::uint64_t kPacePart = 8;   // who together hold less than an 8th are let be
inline constexpr std::uint64_t kAskedBytesWhileShort =
    8 * kMiB;  // that one peer's blocks wait for, of a store that is short of memory
inline constexpr std::size_t kHandsMax = 64;
inline constexpr unsigned kHandsDefaultMax = 8;  // more only when a flag asks for them
inline constexpr std::uint32_t kWeightMax = 1'000'000;
inline constexpr std::size_t kSpacesCounted = 64;  // namespaces with numbers of their own in STAT
inline constexpr std::size_t kMatchKeysPerSlice = 1024;
inline constexpr std::size_t kListsPerPeerMax = 4;  // LISTs being answered
inline constexpr std::size_t kBlocksPerSlice = 64;  // blocks of PUT or GET begun in one task
inline constexpr std::uint64_t kRequestBytesPerPeerMax =
    16 * kMiB;  // bodies of requests that are not over
inline constexpr std::uint32_t kReportsPerPeerPerSecond =
    64;                                              // each may cost a read; more are ignored
inline constexpr std::size_t kPeersRefusedMax = 64;  // beyond kPeersMax, until they have heard why
inline constexpr std::size_t kPeersGreetingMax = 256;   // that are not welcome yet
inline constexpr std::uint64_t kStrangerLinesMax = 10;  // of one kind that peers cause in its log …
inline constexpr std::uint64_t kStrangerLinesMs = 10'000;  // … in so long; more are counted only

// trust
inline constexpr std::uint64_t kTokenSkewS = 60;           // (format) that two clocks may differ
inline constexpr std::size_t kTokenNamespacesMax = 64;     // (format)
inline constexpr std::size_t kTrustTenantsMax = 1024 + 1;  // (format) the agent's own among them
inline constexpr std::size_t kTrustKeysMax = 8;            // (format) of one tenant
inline constexpr std::size_t kTrustRevokedMax = 16384;     // (format) of all tenants together
inline constexpr std::size_t kNodeNamesMax = 8;            // addresses that one node goes by

// TLS
inline constexpr std::uint64_t kTlsHandshakeBytesMax = 64 * kKiB;  // that a stranger may send
inline constexpr std::size_t kTlsReadBytes = 64 * kKiB;            // taken from a socket at a time
inline constexpr std::size_t kTlsOutBytesMax = 68 * kKiB;  // enciphered and not sent: 4 records
inline constexpr std::size_t kTlsFileBytesMax = kMiB;
inline constexpr std::uint64_t kTlsRecordsPerKey = 1u << 23;  // RFC 8446, 5.5: below 2^24.5

// the engine
inline constexpr unsigned kIncarnationBits = 40;  // (format) an incarnation is a boot and a count
inline constexpr std::uint64_t kBootsMax = (1u << 24) - 1;   // (format) what is left of its 64 bits
inline constexpr std::uint64_t kPageBytes = 4096;            // (format) what flash is addressed in
inline constexpr std::uint64_t kArenaPageBytes = 64 * 1024;  // what DRAM is handed out in
inline constexpr std::uint64_t kSegmentBytesMax = kGiB;      // (format)
inline constexpr std::uint64_t kSegmentBytesMin =
    128 * kMiB;  // of a real device; a test may ask for less
inline constexpr std::uint32_t kSegmentsMin = 4;
inline constexpr int kDeviceHeldMs =
    2'000;  // that a device which another process holds is waited for
inline constexpr std::uint64_t kDeviceBytesMin =
    kSegmentsMin * kSegmentBytesMin + kMiB;  // the superblocks before the segments
inline constexpr std::uint64_t kArenaBytesMin = 256 * kMiB;
inline constexpr std::uint32_t kDeviceQueueDepth = 64;
inline constexpr std::uint64_t kDeviceBytesInFlight = 8 * kMiB;
inline constexpr std::uint64_t kVerifiedMsMax =
    1000;  // a block that waited longer for the device is verified once more
inline constexpr std::uint32_t kIndexFlushMsMax = 60'000;
inline constexpr std::uint64_t kRecoveryTellMs = 5'000;  // between two lines about how far it is
inline constexpr std::uint64_t kHoldMsMax = 10 * 60 * 1000;  // of a MATCH
inline constexpr std::size_t kReportsMax = 64;               // being looked into at a time
inline constexpr std::uint64_t kReadsHalfMs = 60'000;        // a block's reads count half after it
inline constexpr std::size_t kTombstonesWaitingMax = 64 * 1024;  // for a segment to be ready
inline constexpr std::uint8_t kReadFailuresMax = 2;  // in a row, then a block is given up
inline constexpr std::uint64_t kIndexEntriesMax =
    256 * 1024 * 1024;  // when it is chosen from the capacity
inline constexpr std::uint64_t kIndexShardsMax = 64 * 1024;
inline constexpr std::size_t kAccountsMax = 64 * 1024;   // of namespaces without a rule
inline constexpr std::size_t kTouchesMax = 1024 * 1024;  // puts that are remembered
inline constexpr std::uint32_t kKeptPercentMax = 75;     // of a segment, for who has a quota
inline constexpr std::uint32_t kClockBackSMax = 60;      // a wall clock that is set is no doubt

// a client
inline constexpr std::size_t kSeedsMax = 1024;
inline constexpr std::uint64_t kTimeoutMsDefault = 5000;
inline constexpr std::uint64_t kTimeoutMsMax = 24 * 3600 * 1000;
inline constexpr std::uint64_t kConnectTimeoutMs = 1000;
inline constexpr std::uint64_t kBackoffMsMin = 20;
inline constexpr std::uint64_t kBackoffMsMax = 2000;
inline constexpr std::uint64_t kMuteMsMin = 200;          // a node may be silent that long
inline constexpr unsigned kTimeoutsInRowMax = 3;          // then a node's breaker opens
inline constexpr std::size_t kClientBlocksMax = 1 << 20;  // under way in one client
inline constexpr std::uint64_t kOldMapMs =
    10 * 60 * 1000;                            // for so long blocks are looked for by an old map
inline constexpr std::size_t kOldMapsMax = 4;  // that are kept
inline constexpr std::size_t kPlacesMax = 4;   // where one block is looked for
inline constexpr std::size_t kFormersMax = 3;  // maps before the one in force, which it names
inline constexpr std::uint64_t kCopiedMs = 30'000;   // so long a second copy is believed in
inline constexpr std::uint64_t kSpeedHalfMs = 2000;  // what is known of a node's speed counts half
inline constexpr std::size_t kDropRoundsMax = 4;     // over all places of a block
inline constexpr unsigned kDropsMax = 3;         // how often a drop begins again for a newer map
inline constexpr std::uint64_t kMapAskMs = 500;  // between two questions for a map
inline constexpr std::size_t kTokenFileBytesMax = 16 * 1024;
inline constexpr std::uint64_t kTokenLookMs = 1000;      // between two looks at the token's file
inline constexpr std::uint64_t kRenewPatienceMs = 5000;  // for requests, before a link is renewed

// the NIXL plugin
inline constexpr std::uint64_t kQueryTimeoutMsDefault =
    500;                                                     // a lookup that takes longer is a miss
inline constexpr std::uint64_t kNoticeBytesMax = 64 * kMiB;  // that nobody fetched; the oldest go
inline constexpr std::uint64_t kPoisonedWaitMs = 1000;       // for what a broken invariant holds up
inline constexpr std::uint64_t kConfigBytesMax = 256 * kKiB;
inline constexpr unsigned kRefusalsLoggedMax = 100;  // of one backend; then silence

}  // namespace memkv
