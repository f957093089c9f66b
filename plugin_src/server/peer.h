// Peer: one connection of a server, from HELLO to its last byte.
//
// Opening, what is legal when, limits and deadlines are here; what PUT, GET, MATCH and DROP do is
// in puts.h, gets.h and scans.h. A peer owns its Link and everything that was begun for it; when
// the link is over it has given all of it back to the store and asks to be forgotten. Thread: the
// mind.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/log_pace.h"
#include "server/gets.h"
#include "server/lists.h"
#include "server/pace.h"
#include "server/puts.h"
#include "server/scans.h"
#include "server/session.h"

namespace memkv {

struct PeerHooks {
  std::function<void()> over;  // the link is over; the peer may be destroyed in it
  std::function<std::string(const Pass&)> stats_text;  // for STAT of who has this pass
};

class Peer final : public LinkHandler, public Session {
 public:
  Peer(ServerContext& context, std::unique_ptr<Stream> stream, PeerHooks hooks);
  ~Peer() override;

  // Looks at the deadlines, at the end of its pass, and at its pace; every kLookMs.
  void tick();
  // Of the arena, what it holds and is too slow with while others wait for memory.
  [[nodiscard]] std::uint64_t slow_bytes() const;
  // Of the store's memory.
  [[nodiscard]] std::uint64_t bytes_held() const;
  // Drops it for that.
  void drop_slow();
  // Drops it when what its node trusts now does not uphold its pass.
  void trust_changed();
  void drop(Status why) override;
  // Nothing was begun that is not over, and every answer has left.
  [[nodiscard]] bool idle() const;
  [[nodiscard]] bool dropping() const { return phase_ == Phase::dropping; }

  [[nodiscard]] std::size_t requests() const {
    return puts_.requests() + gets_.requests() + scans_.requests() + lists_.requests();
  }
  [[nodiscard]] std::uint64_t bytes_granted() const { return puts_.bytes_granted(); }
  [[nodiscard]] std::uint64_t bytes_pinned() const { return gets_.bytes_pinned(); }
  [[nodiscard]] std::size_t blocks_pinned() const { return gets_.blocks_pinned(); }
  [[nodiscard]] std::size_t puts_queued() const { return puts_.queued(); }
  [[nodiscard]] std::size_t gets_queued() const { return gets_.queued(); }

  void on_frame(const wire::Header& header, std::span<const std::byte> body) override;
  [[nodiscard]] Landing on_data(std::uint64_t request, const wire::Data& data,
                                std::uint32_t bytes) override;
  void on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override;
  void on_closed(const Status& why) override;

  void resume_later() override;
  [[nodiscard]] bool may_begin() override;

 private:
  enum class Phase : std::uint8_t { hello, auth, open, dropping };

  [[nodiscard]] Result<void> on_hello(const wire::Header& header, std::span<const std::byte> body);
  [[nodiscard]] Result<void> on_auth(const wire::Header& header, std::span<const std::byte> body);
  [[nodiscard]] Result<void> on_open(const wire::Header& header, std::span<const std::byte> body);
  [[nodiscard]] Result<void> on_request(const wire::Header& header,
                                        std::span<const std::byte> body);
  [[nodiscard]] Result<void> begin_request(const wire::Header& header,
                                           std::span<const std::byte> body);
  // Why its pass does not allow a request; ok when it does. Says nothing of any block.
  [[nodiscard]] Status forbidden(const wire::Header& header, std::span<const std::byte> body) const;
  // The pass of whom AUTH says; the refusal is the same whatever was wrong.
  [[nodiscard]] Result<Pass> admit(const wire::Auth& auth) const;
  void greeted();
  // Why a new request is not taken now; ok when it is.
  [[nodiscard]] Status full(const wire::Header& header, std::span<const std::byte> body) const;
  void answer_stat(std::uint64_t request);
  void answer_map(std::uint64_t request);
  void on_cancel(std::uint64_t request, std::uint32_t item);
  void on_report(const wire::Report& report);
  void resume();
  void look_at_deadlines();
  void look_at_pace();
  [[nodiscard]] std::uint64_t reply_bytes_queued() const;
  [[nodiscard]] std::size_t items() const { return puts_.items() + gets_.items(); }
  void log_end(LogPace& lines, const char* how, const Status& why) const;
  [[nodiscard]] std::string label() const;

  PeerHooks hooks_;
  Phase phase_ = Phase::hello;
  bool end_told_ = false;  // the log has why it is dropped
  Puts puts_;
  Gets gets_;
  Scans scans_;
  Lists lists_;
  std::array<std::byte, 32> nonce_{};
  std::uint64_t session_ = 0;  // of HELLO
  bool greeting_ = true;       // counted among those that are not welcome yet
  Pass pass_;
  std::string name_;

  bool resume_posted_ = false;
  bool unread_retry_ = false;  // a look at what the peer has read is on its way
  std::uint64_t began_ns_ = 0;
  std::uint64_t frame_bytes_in_ = 0;    // of whole frames, and of the DATA frame that is coming in
  std::uint64_t reading_since_ns_ = 0;  // in the middle of a frame; 0: between frames
  std::uint64_t writing_since_ns_ = 0;  // bytes wait to leave; 0: none
  Pace put_pace_, get_pace_;
  std::uint64_t reports_since_ns_ = 0;
  std::uint32_t reports_ = 0;
};

}  // namespace memkv
