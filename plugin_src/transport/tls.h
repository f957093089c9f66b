// TLS: a Network over another one whose streams are TLS 1.3; the frames above do not know.
//
// connect() takes the certificate that the other end shows when it was issued by `ca` and names the
// host that was asked for (as a DNS name or an IP address among its subject alternative names).
// listen() shows `cert` and, where `ca` is named, asks its peers for certificates that were issued
// by that. The streams are handed out before hands are shaken: the first steps do that, so that
// whoever counts and times strangers counts and times these, too. Until it is done a peer may send
// kTlsHandshakeBytesMax. What fails there answers `unreachable`, and Stream::why() says why. Who
// speaks without TLS is told so in a frame, REFUSE, and hears no more; the node's log says it too.
//
// A Stream's promises are kept: bytes that have been deciphered wake a reader, and a stream that is
// cut ends as a cut TCP connection does (frames have lengths: no end is taken for a whole one).
// What it holds is bounded by kTlsOutBytesMax and what OpenSSL keeps of one read.
//
// The files are looked at for every connection and read again when they changed. What cannot be
// read then leaves in force what was read before, and the log says so once.
//
// Thread: the mind; of a stream as in base/stream.h. The executor outlives the streams.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/executor.h"
#include "base/limits.h"
#include "base/stream.h"

namespace memkv {

// Paths of PEM files.
struct TlsSettings {
  std::string ca;           // certificates that the other end's has to come from
  std::string cert;         // our own, and what stands between it and its issuer
  std::string key;          // of `cert`; a secret
  std::string server_name;  // connect() looks for this name instead of the address's host
  std::uint64_t records_per_key = kTlsRecordsPerKey;  // then a fresh key is taken
};

// Asks `below`, which outlives it, for the connections. connect() answers `invalid` where the files
// of `settings` are not good, and so does listen().
[[nodiscard]] std::unique_ptr<Network> tls_network(Network& below, Executor& executor,
                                                   TlsSettings settings);

}  // namespace memkv
