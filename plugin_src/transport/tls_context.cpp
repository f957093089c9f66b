#include "transport/tls_context.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace memkv {
namespace {

constexpr const char* kCiphers =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

struct Free {
  void operator()(BIO* bio) const { ::BIO_free(bio); }
  void operator()(X509* certificate) const { ::X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { ::EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

// This OpenSSL is ours alone and lives in somebody's process: it reads no configuration of the
// machine's and leaves nothing to be run when the process ends.
void begin_openssl() {
  [[maybe_unused]] static const int begun =
      ::OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr);
}

[[nodiscard]] std::unexpected<Status> no_file(const char* name, const std::string& path,
                                              std::string_view why) {
  return fail(Code::invalid, std::string(name) + ": '" + path + "' " + std::string(why));
}

[[nodiscard]] Result<std::string> read_pem(const char* name, const std::string& path) {
  // Without waiting for whoever would write to it: it may be no file at all.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) {
    return no_file(name, path,
                   errno == ENOENT ? "is not there" : "cannot be read; may this user read it?");
  }
  struct stat is{};
  std::string text;
  ssize_t got = 0;
  if (::fstat(file, &is) == 0 && S_ISREG(is.st_mode)) {
    text.resize(kTlsFileBytesMax + 1);
    got = ::read(file, text.data(), text.size());
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  }
  ::close(file);
  if (got <= 0) return no_file(name, path, "is empty, or no file");
  if (text.size() > kTlsFileBytesMax) return no_file(name, path, "is too long to be one");
  return text;
}

[[nodiscard]] Bio bio_of(const std::string& text) {
  return Bio(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Instead of asking the terminal.
int no_passphrase(char* /*out*/, int /*size*/, int /*writes*/, void* /*user*/) {
  return 0;
}

[[nodiscard]] Certificate next_certificate(BIO* bio) {
  return Certificate(::PEM_read_bio_X509(bio, nullptr, no_passphrase, nullptr));
}

// The end of the file is no error.
[[nodiscard]] bool at_end() {
  const bool end = ERR_GET_REASON(::ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ::ERR_clear_error();
  return end;
}

[[nodiscard]] Result<void> trust(SSL_CTX* context, const std::string& path) {
  const auto text = read_pem("tls_ca", path);
  if (!text) return fail(text.error());
  const Bio bio = bio_of(*text);
  X509_STORE* const store = ::SSL_CTX_get_cert_store(context);
  std::size_t count = 0;
  while (const Certificate one = next_certificate(bio.get())) {
    if (::X509_STORE_add_cert(store, one.get()) != 1) break;
    ++count;
  }
  if (!at_end() || count == 0) {
    return no_file("tls_ca", path, "holds no certificates, or a broken one; PEM is wanted");
  }
  return {};
}

[[nodiscard]] Result<void> show(SSL_CTX* context, const TlsSettings& settings) {
  const auto chain = read_pem("tls_cert", settings.cert);
  if (!chain) return fail(chain.error());
  const auto secret = read_pem("tls_key", settings.key);
  if (!secret) return fail(secret.error());
  const Bio bio = bio_of(*chain);
  const Certificate own = next_certificate(bio.get());
  if (!own || ::SSL_CTX_use_certificate(context, own.get()) != 1) {
    return no_file("tls_cert", settings.cert, "holds no certificate; PEM is wanted");
  }
  while (const Certificate issuer = next_certificate(bio.get())) {
    if (::SSL_CTX_add1_chain_cert(context, issuer.get()) != 1) break;
  }
  if (!at_end()) return no_file("tls_cert", settings.cert, "holds a broken certificate");
  const Bio sealed = bio_of(*secret);
  const Key key(::PEM_read_bio_PrivateKey(sealed.get(), nullptr, no_passphrase, nullptr));
  if (!key) {
    return no_file("tls_key", settings.key,
                   "holds no private key that can be read; PEM without a passphrase is wanted");
  }
  if (::SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
    return no_file("tls_key", settings.key,
                   "is not the key of the certificate in '" + settings.cert + "'");
  }
  return {};
}

[[nodiscard]] std::shared_ptr<SSL_CTX> fresh_context(TlsSide side) {
  begin_openssl();
  std::shared_ptr<SSL_CTX> made(
      ::SSL_CTX_new(side == TlsSide::server ? ::TLS_server_method() : ::TLS_client_method()),
      ::SSL_CTX_free);
  SSL_CTX* const context = made.get();
  if (context == nullptr || ::SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      ::SSL_CTX_set_ciphersuites(context, kCiphers) != 1 ||
      ::SSL_CTX_set_num_tickets(context, 0) != 1) {
    return nullptr;
  }
  ::SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
  ::SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
  ::SSL_CTX_set_max_cert_list(context, static_cast<long>(kTlsHandshakeBytesMax / 2));
  ::SSL_CTX_set_read_ahead(context, 1);
  ::SSL_CTX_set_default_read_buffer_len(context, kTlsReadBytes);
  return made;
}

}  // namespace

Result<std::shared_ptr<SSL_CTX>> TlsContext::load() const {
  std::shared_ptr<SSL_CTX> made = fresh_context(side_);
  if (!made) return fail(Code::internal, "TLS: OpenSSL cannot be made ready");
  const bool server = side_ == TlsSide::server;
  if (server && settings_.cert.empty()) {
    return fail(Code::invalid, "TLS: who listens needs a certificate: name it with tls_cert");
  }
  if (!server && settings_.ca.empty()) {
    return fail(Code::invalid, "TLS: who connects needs the nodes' CA: name its file with tls_ca");
  }
  if (settings_.cert.empty() != settings_.key.empty()) {
    return fail(Code::invalid, "TLS: tls_cert and tls_key go together: name both, or none");
  }
  if (!settings_.ca.empty()) {
    if (auto trusted = trust(made.get(), settings_.ca); !trusted) return fail(trusted.error());
    ::SSL_CTX_set_verify(made.get(),
                         SSL_VERIFY_PEER | (server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), nullptr);
  }
  if (!settings_.cert.empty()) {
    if (auto shown = show(made.get(), settings_); !shown) return fail(shown.error());
  }
  return made;
}

bool TlsContext::changed() {
  Seen now{};
  const std::array<const std::string*, 3> paths = {&settings_.ca, &settings_.cert, &settings_.key};
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i]->empty() || ::stat(paths[i]->c_str(), &now[i]) != 0) now[i] = {};
  }
  const bool alike = std::ranges::equal(now, seen_, [](const auto& a, const auto& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
           a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
  });
  seen_ = now;
  return !alike;
}

Result<std::shared_ptr<SSL_CTX>> TlsContext::current() {
  // What could not be read is tried again: whoever writes it may have been in the middle.
  if (!changed() && held_ && trouble_.good()) return held_;
  auto loaded = load();
  ::ERR_clear_error();
  if (loaded) {
    if (held_) log(LogLevel::info, "TLS: takes the certificates that were replaced");
    held_ = std::move(*loaded);
    trouble_ = {};
    return held_;
  }
  if (!held_) return fail(loaded.error());
  if (trouble_.text != loaded.error().text) {
    log(LogLevel::error, "TLS: goes on with the certificates it has: " + loaded.error().text);
  }
  trouble_ = loaded.error();
  return held_;
}

}  // namespace memkv
