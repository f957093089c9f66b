#include "transport/tcp_address.h"

#include <arpa/inet.h>
#include <netdb.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace memkv {
namespace {

std::unexpected<Status> bad_address(std::string_view address, std::string_view why) {
  return fail(Code::invalid, "'" + std::string(address.substr(0, 300)) + "' is no address: " +
                                 std::string(why) + "; write HOST:PORT or [IPV6]:PORT");
}

int look_up(const HostPort& target, int flags, std::vector<SocketAddress>& out) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int error =
      ::getaddrinfo(target.host.c_str(), std::to_string(target.port).c_str(), &hints, &list);
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    SocketAddress& address = out.emplace_back();
    address.bytes = std::min<socklen_t>(one->ai_addrlen, sizeof address.storage);
    std::memcpy(&address.storage, one->ai_addr, address.bytes);
  }
  if (list != nullptr) ::freeaddrinfo(list);
  return error;
}

}  // namespace

std::string SocketAddress::text() const {
  char host[INET6_ADDRSTRLEN] = {};
  if (family() == AF_INET6) {
    const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    return "[" + std::string(host) + "]:" + std::to_string(ntohs(v6->sin6_port));
  }
  const auto* const v4 = reinterpret_cast<const sockaddr_in*>(&storage);
  ::inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
  return std::string(host) + ":" + std::to_string(ntohs(v4->sin_port));
}

Result<HostPort> parse_host_port(std::string_view address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return bad_address(address, "it has no port");
  std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of("[]:") != std::string_view::npos) {
    return bad_address(address, "an IPv6 address stands in brackets");
  }
  if (host.empty()) return bad_address(address, "it has no host (0.0.0.0 listens everywhere)");
  if (host.size() > 253 || host.find('\0') != std::string_view::npos) {
    return bad_address(address, "no host has such a name");
  }
  HostPort out{.host = std::string(host)};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), out.port);
  if (error != std::errc{} || end != port.data() + port.size()) {
    return bad_address(address, "its port is no number from 0 to 65535");
  }
  return out;
}

std::vector<SocketAddress> resolve_numeric(const HostPort& target) {
  std::vector<SocketAddress> out;
  look_up(target, AI_NUMERICHOST, out);
  return out;
}

Result<std::vector<SocketAddress>> resolve_slowly(const HostPort& target) {
  std::vector<SocketAddress> out;
  const int error = look_up(target, AI_ADDRCONFIG, out);
  if (!out.empty()) return out;
  return fail(Code::unreachable, target.host + ": " +
                                     (error != 0 ? ::gai_strerror(error) : "it has no address") +
                                     "; is the name right?");
}

SocketAddress local_address(int fd) {
  SocketAddress out;
  out.bytes = sizeof out.storage;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&out.storage), &out.bytes);
  return out;
}

}  // namespace memkv
