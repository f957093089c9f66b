// Certificates for tests: authorities that issue them as a test wishes, into files.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "transport/tls.h"

namespace memkv::testing {

// A folder of its own, gone with it.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

struct CertificateWish {
  std::vector<std::string> names = {"DNS:b", "DNS:node", "IP:127.0.0.1"};
  long from_s = -3600;  // valid, beginning at now
  long to_s = 3600;
};

class Authority {
 public:
  // Writes NAME.ca.
  Authority(const Folder& folder, std::string name);
  [[nodiscard]] std::string file() const { return folder_.file(name_ + ".ca"); }
  // Writes STEM.crt and STEM.key, in place of what they were.
  [[nodiscard]] TlsSettings issue(const std::string& stem, const CertificateWish& wish = {}) const;

 private:
  struct Free {
    void operator()(X509* one) const { ::X509_free(one); }
    void operator()(EVP_PKEY* one) const { ::EVP_PKEY_free(one); }
  };
  using Certificate = std::unique_ptr<X509, Free>;
  using Key = std::unique_ptr<EVP_PKEY, Free>;

  [[nodiscard]] Certificate make(const std::string& subject, EVP_PKEY* key, const X509* issuer,
                                 const CertificateWish& wish) const;

  const Folder& folder_;
  const std::string name_;
  Key key_;
  Certificate own_;
};

}  // namespace memkv::testing
