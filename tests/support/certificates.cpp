#include "support/certificates.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace memkv::testing {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { ::BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;

void need(bool done, const char* what) {
  if (!done) throw std::runtime_error(std::string("a test's certificate: ") + what);
}

void add_extension(X509* certificate, int kind, const std::string& value) {
  X509_EXTENSION* const made = ::X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str());
  need(made != nullptr, "an extension");
  ::X509_add_ext(certificate, made, -1);
  ::X509_EXTENSION_free(made);
}

// By another name first: whoever looks finds the old file or the new one.
template <typename Write>
void write_pem(const std::string& path, const Write& write) {
  {
    const Bio bio(::BIO_new_file((path + ".new").c_str(), "w"));
    need(bio != nullptr && write(bio.get()) == 1, "its file");
  }
  std::filesystem::rename(path + ".new", path);
}

}  // namespace

Folder::Folder() {
  std::string path = (std::filesystem::temp_directory_path() / "memkv-XXXXXX").string();
  need(::mkdtemp(path.data()) != nullptr, "a folder");
  path_ = path;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Authority::Authority(const Folder& folder, std::string name)
    : folder_(folder), name_(std::move(name)), key_(::EVP_EC_gen("P-256")) {
  need(key_ != nullptr, "a key");
  own_ = make(name_, key_.get(), nullptr, {});
  write_pem(file(), [this](BIO* bio) { return ::PEM_write_bio_X509(bio, own_.get()); });
}

Authority::Certificate Authority::make(const std::string& subject, EVP_PKEY* key,
                                       const X509* issuer, const CertificateWish& wish) const {
  Certificate made(::X509_new());
  X509* const one = made.get();
  need(one != nullptr, "memory");
  ::X509_set_version(one, X509_VERSION_3);
  ASN1_INTEGER_set(::X509_get_serialNumber(one), issuer == nullptr ? 1 : 2);
  ::X509_gmtime_adj(::X509_getm_notBefore(one), wish.from_s);
  ::X509_gmtime_adj(::X509_getm_notAfter(one), wish.to_s);
  ::X509_set_pubkey(one, key);
  ::X509_NAME_add_entry_by_txt(::X509_get_subject_name(one), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(subject.c_str()), -1, -1, 0);
  ::X509_set_issuer_name(one, ::X509_get_subject_name(issuer == nullptr ? one : issuer));
  if (issuer == nullptr) {
    add_extension(one, NID_basic_constraints, "critical,CA:TRUE");
  } else if (!wish.names.empty()) {
    std::string names;
    for (const std::string& name : wish.names) names += (names.empty() ? "" : ",") + name;
    add_extension(one, NID_subject_alt_name, names);
  }
  need(::X509_sign(one, key_.get(), ::EVP_sha256()) > 0, "a signature");
  return made;
}

TlsSettings Authority::issue(const std::string& stem, const CertificateWish& wish) const {
  const Key key(::EVP_EC_gen("P-256"));
  need(key != nullptr, "a key");
  const Certificate made = make(stem, key.get(), own_.get(), wish);
  TlsSettings out{.cert = folder_.file(stem + ".crt"), .key = folder_.file(stem + ".key")};
  write_pem(out.key, [&key](BIO* bio) {
    return ::PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  });
  write_pem(out.cert, [&made](BIO* bio) { return ::PEM_write_bio_X509(bio, made.get()); });
  return out;
}

}  // namespace memkv::testing
