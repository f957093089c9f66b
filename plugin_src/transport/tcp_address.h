// Addresses of TCP: "10.0.0.7:9900", "[::1]:9900", "node-3.example:9900".
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace memkv {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] int family() const { return storage.ss_family; }
  // "10.0.0.7:9900" or "[::1]:9900".
  [[nodiscard]] std::string text() const;
};

struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};

// Statuses: invalid with the sentence that says how an address is written.
[[nodiscard]] Result<HostPort> parse_host_port(std::string_view address);

// The addresses of a host that is a number already; empty when it is a name. Never waits.
[[nodiscard]] std::vector<SocketAddress> resolve_numeric(const HostPort& target);

// The addresses of a host, asking whom the machine asks for names: may take seconds.
// Statuses: unreachable (nobody knows the name).
[[nodiscard]] Result<std::vector<SocketAddress>> resolve_slowly(const HostPort& target);

[[nodiscard]] SocketAddress local_address(int fd);

}  // namespace memkv
