#include "transport/tls_stream.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/crc32c.h"
#include "base/limits.h"
#include "base/log.h"
#include "wire/wire.h"

namespace memkv {
namespace {

constexpr std::size_t kRecordBytes = 16 * kKiB;          // the most that one record holds
constexpr std::size_t kRecordRoom = kRecordBytes + 512;  // enciphered, with a fresh key before it
static_assert(kTlsOutBytesMax >= 2 * kRecordRoom);

constexpr char kHandshakeRecord = 0x16;
constexpr char kAlertRecord = 0x15;
constexpr auto kFirstOfFrame = static_cast<char>(wire::kMagic & 0xff);

// Pieces of memory as a run of records: where one piece has enough they are cut right out of it,
// and small pieces are put together.
class Records {
 public:
  explicit Records(std::span<const iovec> pieces) : pieces_(pieces) { skip_empty(); }
  [[nodiscard]] bool done() const { return piece_ == pieces_.size(); }

  // The next up to kRecordBytes; valid until the next call.
  [[nodiscard]] std::span<const std::byte> next() {
    const std::span<const std::byte> here = rest_of_piece();
    if (here.size() >= kRecordBytes || piece_ + 1 == pieces_.size()) {
      return advance(std::min(here.size(), kRecordBytes));
    }
    std::size_t filled = 0;
    while (!done() && filled < kRecordBytes) {
      const auto part = advance(std::min(rest_of_piece().size(), kRecordBytes - filled));
      std::memcpy(together_.data() + filled, part.data(), part.size());
      filled += part.size();
    }
    return std::span(together_).first(filled);
  }

 private:
  [[nodiscard]] std::span<const std::byte> rest_of_piece() const {
    const iovec& piece = pieces_[piece_];
    return {static_cast<const std::byte*>(piece.iov_base) + used_, piece.iov_len - used_};
  }
  [[nodiscard]] std::span<const std::byte> advance(std::size_t bytes) {
    const auto out = rest_of_piece().first(bytes);
    used_ += bytes;
    skip_empty();
    return out;
  }
  void skip_empty() {
    while (!done() && used_ == pieces_[piece_].iov_len) {
      ++piece_;
      used_ = 0;
    }
  }

  std::span<const iovec> pieces_;
  std::size_t piece_ = 0;
  std::size_t used_ = 0;
  std::array<std::byte, kRecordBytes> together_;
};

[[nodiscard]] std::string openssl_says(unsigned long error) {
  const char* const text = ::ERR_reason_error_string(error);
  return text != nullptr ? text : "no reason is given";
}

}  // namespace

// ---- beginning

std::unique_ptr<Stream> TlsStream::over(std::unique_ptr<Stream> below, Executor& executor,
                                        const Setting& setting) {
  std::unique_ptr<TlsStream> made(new TlsStream(std::move(below), executor, setting));
  if (!made->begin(setting)) return nullptr;
  if (setting.side == TlsSide::client) made->shake_on_mind();
  return made;
}

TlsStream::TlsStream(std::unique_ptr<Stream> below, Executor& executor, const Setting& setting)
    : below_(std::move(below)),
      executor_(executor),
      side_(setting.side),
      records_per_key_(std::max<std::uint64_t>(setting.records_per_key, 1)),
      refused_(setting.refused),
      ssl_(::SSL_new(setting.context.get())),
      context_(setting.context) {}

TlsStream::~TlsStream() {
  close();
  ::SSL_free(ssl_);
}

bool TlsStream::begin(const Setting& setting) {
  BIO* const bio = ::BIO_new(ends());
  if (ssl_ == nullptr || bio == nullptr) {
    ::BIO_free(bio);
    return false;
  }
  ::BIO_set_data(bio, this);
  ::BIO_set_init(bio, 1);
  ::SSL_set_bio(ssl_, bio, bio);
  if (side_ == TlsSide::server) {
    ::SSL_set_accept_state(ssl_);
    return true;
  }
  ::SSL_set_connect_state(ssl_);
  X509_VERIFY_PARAM* const expected = ::SSL_get0_param(ssl_);
  ::X509_VERIFY_PARAM_set_hostflags(
      expected, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  if (::X509_VERIFY_PARAM_set1_ip_asc(expected, setting.host.c_str()) == 1) return true;
  ::ERR_clear_error();
  return ::SSL_set_tlsext_host_name(ssl_, setting.host.c_str()) == 1 &&
         ::X509_VERIFY_PARAM_set1_host(expected, setting.host.data(), setting.host.size()) == 1;
}

// ---- between OpenSSL and the stream below

const BIO_METHOD* TlsStream::ends() {
  static const BIO_METHOD* const kEnds = [] {
    BIO_METHOD* const made =
        ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "a memkv stream");
    ::BIO_meth_set_read_ex(made, take);
    ::BIO_meth_set_write_ex(made, give);
    ::BIO_meth_set_ctrl(made, [](BIO* bio, int what, long, void*) -> long {
      if (what == BIO_CTRL_EOF) return static_cast<TlsStream*>(::BIO_get_data(bio))->over_ ? 1 : 0;
      return what == BIO_CTRL_FLUSH ? 1 : 0;
    });
    return made;
  }();
  return kEnds;
}

int TlsStream::take(BIO* bio, char* out, std::size_t bytes, std::size_t* taken) {
  TlsStream& self = *static_cast<TlsStream*>(::BIO_get_data(bio));
  ::BIO_clear_retry_flags(bio);
  if (self.phase_ == Phase::shaking) {
    bytes = std::min<std::size_t>(bytes, kTlsHandshakeBytesMax - self.taken_);
    if (bytes == 0) return 0;  // as if it had ended: judge() says what is wrong
  }
  const iovec piece{out, bytes};
  const IoStep step = self.below_->read_some({&piece, 1});
  if (step.code == Code::busy) ::BIO_set_retry_read(bio);
  self.over_ = self.over_ || (step.code != Code::ok && step.code != Code::busy);
  if (step.bytes == 0) return 0;
  if (self.taken_ == 0) self.first_ = out[0];
  if (self.is_stranger()) return 0;
  self.taken_ += step.bytes;
  self.held_ += step.bytes;
  *taken = step.bytes;
  return 1;
}

// Room was reserved, and what there is none for waits in OpenSSL.
int TlsStream::give(BIO* bio, const char* bytes, std::size_t count, std::size_t* given) {
  TlsStream& self = *static_cast<TlsStream*>(::BIO_get_data(bio));
  ::BIO_clear_retry_flags(bio);
  if (self.out_.size() + count > self.out_.capacity()) {
    ::BIO_set_retry_write(bio);
    return 0;
  }
  self.out_.insert(self.out_.end(), bytes, bytes + count);
  *given = count;
  return 1;
}

bool TlsStream::is_stranger() const {
  return first_ != kHandshakeRecord && first_ != kAlertRecord;
}

// A client of ours understands a frame.
void TlsStream::tell_stranger() {
  out_.clear();
  out_begin_ = 0;
  if (side_ != TlsSide::server || first_ != kFirstOfFrame) return;
  std::array<std::byte, wire::kHeaderBytes + wire::kSmallBodyMax> frame;
  const std::span whole(frame);
  const std::size_t bytes = wire::encode(
      wire::Refuse{.code = Code::unsupported,
                   .text = "this node speaks TLS only: name the file of its CA with tls_ca"},
      whole.subspan<wire::kHeaderBytes>());
  wire::encode_header({.type = wire::Type::refuse,
                       .request = 0,
                       .body_bytes = static_cast<std::uint32_t>(bytes),
                       .payload_bytes = 0,
                       .body_crc = crc32c(whole.subspan(wire::kHeaderBytes, bytes))},
                      whole.first<wire::kHeaderBytes>());
  const auto* const begin = reinterpret_cast<const char*>(frame.data());
  out_.assign(begin, begin + wire::kHeaderBytes + bytes);
}

Code TlsStream::flush() {
  while (out_begin_ < out_.size()) {
    const iovec piece{out_.data() + out_begin_, out_.size() - out_begin_};
    const IoStep step = below_->write_some({&piece, 1});
    if (step.code != Code::ok) {
      unsent_ = step.code == Code::busy;
      return step.code;
    }
    out_begin_ += step.bytes;
  }
  out_.clear();
  out_begin_ = 0;
  unsent_ = false;
  return Code::ok;
}

// ---- steps

IoStep TlsStream::read_some(std::span<const iovec> pieces) {
  const std::lock_guard lock(mutex_);
  const Phase before = phase_;
  const std::uint64_t taken_before = taken_;
  IoStep step{.code = shake()};
  if (step.code == Code::ok) {
    step.bytes = decipher(pieces);
    if (step.bytes > 0) held_ = static_cast<std::size_t>(::SSL_pending(ssl_));
    if (step.bytes == 0) step.code = phase_ == Phase::broken ? Code::unreachable : Code::busy;
    if (std::ranges::all_of(pieces, [](const iovec& piece) { return piece.iov_len == 0; })) {
      step.code = Code::ok;
    }
  }
  (void)flush();
  note_step(before, taken_before, true);
  return step;
}

std::size_t TlsStream::decipher(std::span<const iovec> pieces) {
  std::size_t moved = 0;
  more_ = true;
  for (const iovec& piece : pieces) {
    std::size_t filled = 0;
    while (filled < piece.iov_len) {
      std::size_t got = 0;
      ::ERR_clear_error();
      const int read = ::SSL_read_ex(ssl_, static_cast<std::byte*>(piece.iov_base) + filled,
                                     piece.iov_len - filled, &got);
      if (read != 1) {
        (void)judge(read);
        return moved;
      }
      filled += got;
      moved += got;
    }
  }
  return moved;
}

IoStep TlsStream::write_some(std::span<const iovec> pieces) {
  const std::lock_guard lock(mutex_);
  const Phase before = phase_;
  const std::uint64_t taken_before = taken_;
  IoStep step{.code = shake()};
  Records records(pieces);
  while (step.code == Code::ok && !records.done()) {
    step.code = flush();
    while (step.code == Code::ok && room_for_record() && !records.done()) {
      const auto record = records.next();
      if (encipher(record.data(), record.size())) {
        step.bytes += record.size();
      } else {
        step.code = Code::unreachable;
      }
    }
  }
  if (const Code sent = flush(); sent != Code::ok && sent != Code::busy) step.code = sent;
  if (step.bytes > 0) step.code = Code::ok;
  note_step(before, taken_before, false);
  return step;
}

bool TlsStream::room_for_record() const {
  return out_.capacity() - out_.size() >= kRecordRoom;
}

// There is room for it, so it is taken whole or the connection is over.
bool TlsStream::encipher(const void* bytes, std::size_t count) {
  ::ERR_clear_error();
  if (++records_ % records_per_key_ == 0) {
    (void)::SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED);
  }
  std::size_t wrote = 0;
  const int written = ::SSL_write_ex(ssl_, bytes, count, &wrote);
  if (written == 1 && wrote == count) return true;
  if (written == 1 || judge(written) != Code::unreachable) {
    break_with("TLS: a record was not taken whole");
  }
  return false;
}

Code TlsStream::shake() {
  if (phase_ == Phase::broken) return Code::unreachable;
  if (out_.capacity() == 0) out_.reserve(kTlsOutBytesMax);
  if (phase_ == Phase::open) return Code::ok;
  ::ERR_clear_error();
  const int shaken = ::SSL_do_handshake(ssl_);
  if (shaken != 1) return judge(shaken);
  phase_ = Phase::open;
  more_ = true;  // what came behind the last words of the handshake
  return Code::ok;
}

// After a step of OpenSSL's that did not do all: why. busy or unreachable.
Code TlsStream::judge(int returned) {
  switch (::SSL_get_error(ssl_, returned)) {
    case SSL_ERROR_WANT_READ:
      more_ = false;
      return Code::busy;
    case SSL_ERROR_WANT_WRITE:
      return Code::busy;
    case SSL_ERROR_ZERO_RETURN:
      break_with({});
      return Code::unreachable;
    default:
      break_with(reason());
      if (is_stranger()) tell_stranger();
      return Code::unreachable;
  }
}

void TlsStream::break_with(std::string why) {
  if (phase_ == Phase::broken) return;
  phase_ = Phase::broken;
  why_ = std::move(why);
  if (refused_ && !over_ && !why_.empty()) {
    refused_->log(executor_.clock().now_ns(), "peer " + peer() + " is refused: " + why_);
  }
}

// ---- what went wrong

std::string TlsStream::why() const {
  const std::lock_guard lock(mutex_);
  return why_;
}

std::string TlsStream::reason() const {
  const bool server = side_ == TlsSide::server;
  if (is_stranger()) {
    return server ? "TLS: it speaks without, and this node has a certificate: clients name its CA "
                    "with tls_ca"
                  : "TLS: the node speaks without: start it with --tls-cert and --tls-key, or "
                    "leave tls_ca out";
  }
  const bool shaking = phase_ == Phase::shaking;
  if (over_) return shaking ? "TLS: the connection ended before hands were shaken" : "";
  if (shaking && taken_ >= kTlsHandshakeBytesMax) {
    return "TLS: the handshake is longer than " + std::to_string(kTlsHandshakeBytesMax) + " bytes";
  }
  const unsigned long error = ::ERR_peek_error();
  if (ERR_GET_LIB(error) != ERR_LIB_SSL) return "TLS: " + openssl_says(error);
  switch (ERR_GET_REASON(error)) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return reason_of_certificate();
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return "TLS: it shows no certificate, and --tls-client-ca says that it needs one";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return "TLS: the node wants a certificate of its clients: name one with tls_cert and tls_key";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
      return "TLS: the other end does not speak version 1.3";
    default:
      break;
  }
  const int alert = ERR_GET_REASON(error) - SSL_AD_REASON_OFFSET;
  if (alert < 0) return "TLS: " + openssl_says(error);
  return std::string("TLS: the other end, whose log says more, refuses: ") +
         ::SSL_alert_desc_string_long(alert);
}

std::string TlsStream::reason_of_certificate() const {
  const std::string whose = side_ == TlsSide::server ? "the client's" : "the node's";
  const long verdict = ::SSL_get_verify_result(ssl_);
  switch (verdict) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return "TLS: the node's certificate does not name the host it was asked by: issue one that "
             "does (subjectAltName), or say its name with tls_server_name";
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return "TLS: " + whose + " certificate is past its time: issue a fresh one";
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return "TLS: " + whose + " certificate is not valid yet: are both clocks right?";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      return "TLS: " + whose + " certificate comes from a CA that is not trusted here: is " +
             (side_ == TlsSide::server ? "--tls-client-ca" : "tls_ca") + " the right file?";
    default:
      return "TLS: " + whose + " certificate: " + ::X509_verify_cert_error_string(verdict);
  }
}

// ---- who waits

// What a step changed for who did not take it: the other direction, and bytes that are left over.
void TlsStream::note_step(Phase before, std::uint64_t taken_before, bool reads) {
  if (!reads && taken_ != taken_before) more_ = true;
  if (phase_ != before || unsent_ || (!reads && taken_ != taken_before)) kick_soon();
}

void TlsStream::kick_soon() {
  if (kicked_.exchange(true)) return;
  executor_.post([this, life = std::weak_ptr<bool>(life_)] {
    if (!life.expired()) kick();
  });
}

void TlsStream::kick() {
  kicked_ = false;
  if (closed_) return;
  const std::weak_ptr<bool> life = life_;
  if (unsent_) wait_for_room();
  if (reader_ && (more_ || phase_ == Phase::broken)) std::exchange(reader_, nullptr)();
  // The first call may have closed the stream, or destroyed it.
  if (life.expired() || !writer_) return;
  if (phase_ == Phase::broken) {
    std::exchange(writer_, nullptr)();
  } else if (phase_ == Phase::open) {
    wait_for_room();
  }
}

void TlsStream::shake_on_mind() {
  const std::lock_guard lock(mutex_);
  const Phase before = phase_;
  (void)flush();
  (void)shake();
  (void)flush();
  note_step(before, taken_, true);
}

void TlsStream::when_readable(Ready ready, std::size_t enough) {
  if (closed_) return;
  reader_ = std::move(ready);
  if (more_ || phase_ == Phase::broken) return kick_soon();
  // So many are still to come at least: what is there already is less than a record.
  const bool sure = phase_ == Phase::open && enough > kRecordRoom;
  wait_for_bytes(sure ? enough - kRecordRoom : 1);
}

void TlsStream::when_writable(Ready ready) {
  if (closed_) return;
  writer_ = std::move(ready);
  if (phase_ == Phase::broken) return kick_soon();
  if (phase_ == Phase::open || unsent_) return wait_for_room();
  wait_for_bytes(1);  // of the handshake
}

void TlsStream::wait_for_bytes(std::size_t enough) {
  if (std::exchange(waits_for_bytes_, true)) return;
  below_->when_readable([this] { on_below_readable(); }, enough);
}

void TlsStream::wait_for_room() {
  if (std::exchange(waits_for_room_, true)) return;
  below_->when_writable([this] { on_below_writable(); });
}

void TlsStream::on_below_readable() {
  waits_for_bytes_ = false;
  if (reader_) return std::exchange(reader_, nullptr)();
  if (phase_ != Phase::shaking) return;
  shake_on_mind();  // for who waits to write while nobody reads
  if (writer_ && phase_ == Phase::shaking) wait_for_bytes(1);
}

void TlsStream::on_below_writable() {
  waits_for_room_ = false;
  if (writer_ && phase_ == Phase::open) return std::exchange(writer_, nullptr)();
  if (phase_ == Phase::shaking) {
    shake_on_mind();
  } else {
    const std::lock_guard lock(mutex_);
    (void)flush();
  }
  if (unsent_) {
    wait_for_room();
  } else if (writer_ && phase_ == Phase::shaking) {
    wait_for_bytes(1);
  } else if (writer_) {
    kick_soon();
  }
}

std::size_t TlsStream::unread() const {
  return below_->unread() + held_;
}

void TlsStream::close() {
  if (std::exchange(closed_, true)) return;
  const Ready forgotten[2] = {std::exchange(reader_, nullptr), std::exchange(writer_, nullptr)};
  {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::open) {
      ::ERR_clear_error();
      (void)::SSL_shutdown(ssl_);
      ::ERR_clear_error();
    }
    (void)flush();
    phase_ = Phase::broken;
  }
  below_->close();
}

}  // namespace memkv
