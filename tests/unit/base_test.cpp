// Clock, random, log and result: the small things of base.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/hands.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/log_json.h"
#include "base/log_pace.h"
#include "base/random.h"
#include "base/result.h"

namespace memkv {
namespace {

TEST(Clock, NeverGoesBack) {
  std::uint64_t last = system_clock().now_ns();
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t now = system_clock().now_ns();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(Random, OfASeedIsAlwaysTheSame) {
  SeededRandom random(0);
  EXPECT_EQ(random.next(), 0xe220a8397b1dcdafULL);  // SplitMix64's published numbers for seed 0
  EXPECT_EQ(random.next(), 0x6e789e6aa1b965f4ULL);
}

TEST(Random, BelowStaysBelowAndReachesAll) {
  SeededRandom random(7);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(random.below(10));
  EXPECT_EQ(seen.size(), 10U);
  EXPECT_EQ(*seen.rbegin(), 9U);
  EXPECT_EQ(random.below(1), 0U);
}

TEST(Random, OfTheSystemDoesNotRepeat) {
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(system_random().next());
  EXPECT_EQ(seen.size(), 1000U);
}

class LogTest : public testing::Test {
 protected:
  LogTest() {
    set_log_sink(
        [this](LogLevel level, std::string_view line) { lines.emplace_back(level, line); });
  }
  ~LogTest() override {
    set_log_sink({});
    set_log_level(LogLevel::info);
  }
  std::vector<std::pair<LogLevel, std::string>> lines;
};

TEST_F(LogTest, LinesReachTheSinkFromTheLeastLevelOn) {
  log(LogLevel::debug, "too small");
  log(LogLevel::info, "one");
  set_log_level(LogLevel::error);
  log(LogLevel::warning, "too small now");
  log(LogLevel::error, "two");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0], std::pair(LogLevel::info, std::string("one")));
  EXPECT_EQ(lines[1], std::pair(LogLevel::error, std::string("two")));
}

TEST(Hands, AThreadThatCannotBeStartedLeavesTheSignalsAsTheyWere) {
  pthread_attr_t usual;
  pthread_attr_t endless;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_attr_init(&endless), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&endless, std::size_t{1} << 60), 0);
  ASSERT_EQ(pthread_setattr_default_np(&endless), 0);
  EXPECT_THROW((void)start_quiet_thread("none", [] {}), std::system_error);
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  sigset_t blocked;
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &blocked), 0);
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 0);
  start_quiet_thread("one", [&blocked] { pthread_sigmask(SIG_SETMASK, nullptr, &blocked); }).join();
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
  pthread_attr_destroy(&usual);
  pthread_attr_destroy(&endless);
}

TEST(Log, TheChildOfAForkLogsWhateverItsParentDid) {
  std::promise<void> inside;
  std::promise<void> leave;
  set_log_sink([&](LogLevel, std::string_view) {
    inside.set_value();
    leave.get_future().wait();
  });
  std::thread busy([] { log(LogLevel::error, "it holds the lock"); });
  inside.get_future().wait();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // who waits for that lock waits for ever
    bool said = false;
    set_log_sink([&said](LogLevel, std::string_view) { said = true; });
    log(LogLevel::error, "the child's own");
    _exit(said ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  leave.set_value();
  busy.join();
  set_log_sink({});
}

TEST_F(LogTest, LinesThatStrangersCauseHaveAPaceAndWhatIsLeftOutIsCounted) {
  LogPace pace(LogLevel::warning, "peers that knock");
  constexpr std::uint64_t kWindow = kStrangerLinesMs * kNsPerMs;
  const auto knock = [&pace](std::uint64_t times, std::uint64_t now_ns) {
    for (std::uint64_t i = 0; i < times; ++i) pace.log(now_ns, "knock");
  };
  knock(3 * kStrangerLinesMax, 1000);
  knock(5, kWindow);
  ASSERT_EQ(lines.size(), kStrangerLinesMax);
  pace.tell(kWindow);
  EXPECT_EQ(lines.size(), kStrangerLinesMax) << "it is not over yet";
  pace.tell(1000 + kWindow);
  ASSERT_EQ(lines.size(), kStrangerLinesMax + 1);
  EXPECT_EQ(lines.back().first, LogLevel::warning);
  EXPECT_TRUE(lines.back().second.starts_with("25 more lines about peers that knock were left"));
  pace.tell(3 * kWindow);
  EXPECT_EQ(lines.size(), kStrangerLinesMax + 1) << "it is told once";
  lines.clear();
  knock(kStrangerLinesMax + 2, 4 * kWindow);
  knock(1, 5 * kWindow);  // the next line tells, too
  ASSERT_EQ(lines.size(), kStrangerLinesMax + 2);
  EXPECT_TRUE(lines[kStrangerLinesMax].second.starts_with("2 more lines"));
  EXPECT_EQ(lines.back().second, "knock");
}

TEST_F(LogTest, NobodyBeginsALineOfTheirOwnInsideAnother) {
  log(LogLevel::info, "peer 'x\nmemkv error: all is lost\r\x1b[2J'");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].second, "peer 'x memkv error: all is lost  [2J'");
}

TEST(Log, GoesToStandardErrorWithoutASink) {
  testing::internal::CaptureStderr();
  log(LogLevel::warning, "the sentence");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "memkv warning: the sentence\n");
}

TEST(Log, GoesToStandardErrorAsJsonWhereThatIsAsked) {
  log_as_json("10.0.0.7:\"9900\\");
  set_log_level(LogLevel::warning);
  testing::internal::CaptureStderr();
  log(LogLevel::info, "too small");
  log(LogLevel::warning, "it's \"so\"\n", {{"code", "busy"}, {"pa\\th", "\x01"}});
  log(LogLevel::error, "no fields");
  std::istringstream said(testing::internal::GetCapturedStderr());
  set_log_sink({});
  set_log_level(LogLevel::info);
  std::vector<std::string> found;
  for (std::string line; std::getline(said, line); found.push_back(line)) {
    ASSERT_GT(line.size(), 30U);
    EXPECT_EQ(line[20], 'T');
    line.erase(10, 19);  // {"time": "2026-11-26T17:05:03Z", …
  }
  const std::string node = R"("node": "10.0.0.7:\"9900\\", "fields": )";
  const std::vector<std::string> wanted = {
      R"({"time": "Z", "level": "warning", "what": "it's \"so\" ", )" + node +
          R"({"code": "busy", "pa\\th": "\u0001"}})",
      R"({"time": "Z", "level": "error", "what": "no fields", )" + node + "{}}",
  };
  EXPECT_EQ(found, wanted);
}

TEST(Log, LevelsHaveNames) {
  for (const auto level : {LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error}) {
    EXPECT_EQ(log_level_named(log_level_name(level)), level);
  }
  EXPECT_EQ(log_level_name(LogLevel::warning), "warning");
  EXPECT_FALSE(log_level_named("warn"));
}

TEST(Check, ABrokenOneStopsTheProcessWithItsSentence) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  MEMKV_CHECK(1 + 1 == 2, "what holds stops nobody");
  EXPECT_DEATH(MEMKV_CHECK(1 + 1 == 3, "sums are right"),
               R"(^memkv: broken invariant: sums are right \(1 \+ 1 == 3\) at .*base_test\.cpp:)");
}

TEST(Status, SaysItsWordAndItsSentence) {
  EXPECT_EQ(Status(Code::not_found).message(), "not_found");
  EXPECT_EQ(Status(Code::conflict, "the sentence").message(), "conflict: the sentence");
  EXPECT_TRUE(Status(Code::exists).good());
  EXPECT_FALSE(Status(Code::busy).good());
  std::set<std::string_view> words;
  for (unsigned code = 0; code <= kCodeMax; ++code) {
    words.insert(code_name(static_cast<Code>(code)));
  }
  EXPECT_EQ(words.size(), kCodeMax + 1U);
  EXPECT_EQ(code_name(static_cast<Code>(kCodeMax + 1)), "unknown");
}

}  // namespace
}  // namespace memkv
