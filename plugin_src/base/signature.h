// Signature: Ed25519 (RFC 8032), for tokens and their proofs (docs/formats/token.md).
//
// The arithmetic is libsodium's (docs/adr/0022-signatures.md). What is signed always begins with
// the name of its kind ("memkv.token/1"), so that no signature of one kind passes for another.
//
// Thread: any. Nothing here fails but by answering false.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace memkv {

using PublicKey = std::array<std::byte, 32>;
using PrivateKey = std::array<std::byte, 32>;  // the seed of RFC 8032; a secret
inline constexpr std::size_t kSignatureBytes = 64;
using Signature = std::array<std::byte, kSignatureBytes>;

// Whether the holder of `key` signed exactly this. Keys of small order, and second spellings of a
// signature, are refused.
[[nodiscard]] bool is_signed_by(const PublicKey& key, std::span<const std::byte> message,
                                std::span<const std::byte> signature);

// The one signature of this message by this key.
[[nodiscard]] Signature sign(const PrivateKey& key, std::span<const std::byte> message);

[[nodiscard]] PublicKey public_half(const PrivateKey& key);

// What a token's holder signs: that it is asked with this nonce, in this session, by the node that
// it calls `address`. Another node has no use for the answer.
[[nodiscard]] std::vector<std::byte> proof_message(std::span<const std::byte> nonce,
                                                   std::uint64_t session, std::string_view address);

}  // namespace memkv
