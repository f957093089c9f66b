#include <utility>

#include "transport/tcp_address.h"
#include "transport/tls.h"
#include "transport/tls_context.h"
#include "transport/tls_stream.h"

namespace memkv {
namespace {

class TlsNetwork final : public Network {
 public:
  using Connected = std::move_only_function<void(Result<std::unique_ptr<Stream>>)>;

  TlsNetwork(Network& below, Executor& executor, const TlsSettings& settings)
      : below_(below),
        executor_(executor),
        client_(TlsSide::client, settings),
        server_(std::make_shared<TlsContext>(TlsSide::server, settings)) {}

  void connect(std::string_view address, std::uint64_t timeout_ns, Connected done) override;
  [[nodiscard]] Result<std::unique_ptr<Listener>> listen(
      std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) override;

 private:
  [[nodiscard]] Result<TlsStream::Setting> setting_for(std::string_view address);

  Network& below_;
  Executor& executor_;
  TlsContext client_;
  const std::shared_ptr<TlsContext> server_;  // a listener may outlive us
};

Result<TlsStream::Setting> TlsNetwork::setting_for(std::string_view address) {
  const TlsSettings& settings = client_.settings();
  TlsStream::Setting setting{.side = TlsSide::client,
                             .host = settings.server_name,
                             .records_per_key = settings.records_per_key};
  if (setting.host.empty()) {
    auto target = parse_host_port(address);
    if (!target) return fail(target.error());
    setting.host = std::move(target->host);
  }
  auto context = client_.current();
  if (!context) return fail(context.error());
  setting.context = std::move(*context);
  return setting;
}

void TlsNetwork::connect(std::string_view address, std::uint64_t timeout_ns, Connected done) {
  auto setting = setting_for(address);
  if (!setting) {
    // From a later task, as every answer.
    return executor_.post([done = std::move(done), why = std::move(setting.error())]() mutable {
      done(fail(std::move(why)));
    });
  }
  below_.connect(address, timeout_ns,
                 [&executor = executor_, setting = std::move(*setting),
                  done = std::move(done)](Result<std::unique_ptr<Stream>> stream) mutable {
                   if (!stream) return done(std::move(stream));
                   auto secured = TlsStream::over(std::move(*stream), executor, setting);
                   if (!secured)
                     return done(fail(Code::internal, "TLS: no memory for a connection"));
                   done(std::move(secured));
                 });
}

Result<std::unique_ptr<Listener>> TlsNetwork::listen(
    std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) {
  if (const auto good = server_->current(); !good) return fail(good.error());
  auto refused = std::make_shared<LogPace>(LogLevel::warning, "peers whose TLS was refused");
  return below_.listen(
      address, [&executor = executor_, server = server_, refused = std::move(refused),
                accepted = std::move(accepted)](std::unique_ptr<Stream> stream) {
        refused->tell(executor.clock().now_ns());
        auto context = server->current();
        if (!context) return;  // there was one when it began to listen, and that is kept
        auto secured = TlsStream::over(std::move(stream), executor,
                                       {.context = std::move(*context),
                                        .side = TlsSide::server,
                                        .host = {},
                                        .records_per_key = server->settings().records_per_key,
                                        .refused = refused});
        if (secured) accepted(std::move(secured));
      });
}

}  // namespace

std::unique_ptr<Network> tls_network(Network& below, Executor& executor, TlsSettings settings) {
  return std::make_unique<TlsNetwork>(below, executor, settings);
}

}  // namespace memkv
