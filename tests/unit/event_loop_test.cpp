// The real executor: order, fairness, hands, descriptors, and a clean end.
#include "base/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

namespace memkv {
namespace {

std::unique_ptr<EventLoop> make_loop(unsigned hands = 0) {
  auto loop = EventLoop::create(hands);
  EXPECT_TRUE(loop) << loop.error().message();
  return *std::move(loop);
}

struct Pipe {
  Pipe() { EXPECT_EQ(::pipe(ends.data()), 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void put() const { EXPECT_EQ(::write(ends[1], "x", 1), 1); }
  void take() const {
    char c = 0;
    EXPECT_EQ(::read(ends[0], &c, 1), 1);
  }
  [[nodiscard]] int in() const { return ends[0]; }
  std::array<int, 2> ends{};
};

TEST(EventLoop, RunsTasksInTheOrderTheyWerePosted) {
  const auto loop = make_loop();
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) loop->post([&order, i] { order.push_back(i); });
  loop->post([&] {
    loop->post([&] {
      order.push_back(1001);
      loop->stop();
    });
    order.push_back(1000);
  });
  loop->run();
  ASSERT_EQ(order.size(), 102U);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(EventLoop, EveryThreadMayPostAndItsOrderIsKept) {
  const auto loop = make_loop(2);
  constexpr int kThreads = 4;
  constexpr int kTasks = 2000;
  std::array<int, kThreads> next{};
  int left = kThreads * kTasks;
  bool in_order = true;
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kTasks; ++i) {
        loop->post([&, t, i] {
          in_order = in_order && next[static_cast<std::size_t>(t)]++ == i;
          if (--left == 0) loop->stop();
        });
      }
    });
  }
  loop->run();
  EXPECT_TRUE(in_order);
  EXPECT_EQ(left, 0);
}

TEST(EventLoop, KnowsItsMind) {
  const auto loop = make_loop();
  EXPECT_TRUE(loop->on_mind());  // before run() every thread may set things up
  bool inside = false;
  std::atomic<bool> outside = true;
  loop->post([&] {
    inside = loop->on_mind();
    std::thread([&] { outside = loop->on_mind(); }).join();
    loop->stop();
  });
  loop->run();
  EXPECT_TRUE(inside);
  EXPECT_FALSE(outside);
}

TEST(EventLoop, RunsAgainAfterAStop) {
  const auto loop = make_loop();
  int ran = 0;
  for (int i = 0; i < 3; ++i) {
    loop->post([&] {
      ++ran;
      loop->stop();
    });
    loop->post([&] { ran += 100; });  // after the stop: the next run's
    loop->run();
    EXPECT_EQ(ran % 100, i + 1);
  }
  EXPECT_EQ(ran, 203);
}

TEST(EventLoop, StopFromAnotherThreadEndsAMindThatSleeps) {
  const auto loop = make_loop();
  std::atomic<bool> running = false;
  std::jthread other([&] {
    running.wait(false);
    loop->stop();
  });
  loop->post([&] {
    running = true;
    running.notify_one();
  });
  loop->run();
}

// ---- timers

TEST(EventLoop, TimersRunInTheOrderOfTheirDeadlines) {
  const auto loop = make_loop();
  std::vector<int> order;
  const std::uint64_t begin_ns = loop->clock().now_ns();
  (void)loop->after(8 * kNsPerMs, [&] {
    order.push_back(3);
    EXPECT_GE(loop->clock().now_ns() - begin_ns, 8 * kNsPerMs);
    loop->stop();
  });
  (void)loop->after(4 * kNsPerMs, [&] { order.push_back(2); });
  (void)loop->after(0, [&] { order.push_back(1); });
  loop->run();
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST(EventLoop, ACancelledTimerDoesNotRun) {
  const auto loop = make_loop();
  bool ran = false;
  TimerId second = 0;
  const TimerId first = loop->after(0, [&] { ran = true; });
  loop->cancel(first);
  loop->cancel(first);
  loop->cancel(0);
  // Also when both are due in one turn and the first cancels the second.
  (void)loop->after(0, [&] { loop->cancel(second); });
  second = loop->after(0, [&] { ran = true; });
  (void)loop->after(kNsPerMs, [&] { loop->stop(); });
  loop->run();
  EXPECT_FALSE(ran);
}

TEST(EventLoop, TasksThatNeverEndStarveNeitherTimersNorDescriptors) {
  const auto loop = make_loop();
  const Pipe pipe;
  pipe.put();
  bool timer = false;
  bool ready = false;
  std::function<void()> again = [&] {
    if (timer && ready) {
      loop->stop();
    } else {
      loop->post(again);
    }
  };
  loop->post(again);
  (void)loop->after(0, [&] { timer = true; });
  ASSERT_TRUE(loop->watch(pipe.in(), EPOLLIN | EPOLLONESHOT, [&](unsigned) { ready = true; }));
  loop->run();
  EXPECT_TRUE(timer && ready);
}

TEST(EventLoop, TimersThatNeverEndStarveNoTasks) {
  const auto loop = make_loop();
  int ticks = 0;
  std::function<void()> tick = [&] {
    ++ticks;
    (void)loop->after(0, tick);
  };
  (void)loop->after(0, tick);
  loop->post([&] { loop->post([&] { loop->stop(); }); });
  loop->run();
  EXPECT_GE(ticks, 1);
}

// ---- hands

TEST(EventLoop, WithoutHandsTheMindDoesTheJobsOneTurnEach) {
  const auto loop = make_loop(0);
  EXPECT_EQ(loop->hands(), 1U);
  std::vector<std::string> order;
  const std::thread::id mind = std::this_thread::get_id();
  for (const char* name : {"a", "b"}) {
    loop->offload(
        [&, name] {
          EXPECT_EQ(std::this_thread::get_id(), mind);
          order.push_back(std::string("job ") + name);
        },
        [&, name] { order.push_back(std::string("done ") + name); });
  }
  loop->post([&] { order.push_back("task"); });
  loop->post([&] { loop->post([&] { loop->stop(); }); });
  loop->run();
  EXPECT_EQ(order, (std::vector<std::string>{"job a", "job b", "task", "done a", "done b"}));
}

TEST(EventLoop, HandsWorkAtTheSameTimeAndTheMindHearsOfIt) {
  const auto loop = make_loop(2);
  EXPECT_EQ(loop->hands(), 2U);
  std::barrier<> meet(2);  // ends only if both jobs run at once
  const std::thread::id mind = std::this_thread::get_id();
  int done = 0;
  for (int i = 0; i < 2; ++i) {
    loop->offload(
        [&] {
          EXPECT_NE(std::this_thread::get_id(), mind);
          meet.arrive_and_wait();
        },
        [&] {
          EXPECT_EQ(std::this_thread::get_id(), mind);
          if (++done == 2) loop->stop();
        });
  }
  loop->run();
  EXPECT_EQ(done, 2);
}

TEST(EventLoop, AJobIsOverBeforeItsDone) {
  const auto loop = make_loop(3);
  constexpr int kJobs = 3000;
  std::vector<int> memory(kJobs);  // not atomic: the hand-over itself must order the accesses
  int done = 0;
  for (int i = 0; i < kJobs; ++i) {
    const auto at = static_cast<std::size_t>(i);
    loop->offload([&memory, at, i] { memory[at] = i + 1; },
                  [&, at, i] {
                    EXPECT_EQ(memory[at], i + 1);
                    if (++done == kJobs) loop->stop();
                  });
  }
  loop->run();
  EXPECT_EQ(done, kJobs);
}

TEST(EventLoop, NoHandIsInsideAJobWhenRunReturns) {
  for (int round = 0; round < 20; ++round) {
    const auto loop = make_loop(2);
    bool finished = false;  // not atomic: the end of run() itself must order the accesses
    bool done = false;
    loop->offload(
        [&] {
          loop->stop();
          for (int i = 0; i < 200; ++i) std::this_thread::yield();
          finished = true;
        },
        [&] {
          done = true;
          loop->stop();
        });
    loop->run();
    EXPECT_TRUE(finished);
    if (!done) loop->run();  // what was stopped goes on
    EXPECT_TRUE(done);
  }
}

// ---- descriptors

TEST(EventLoop, AWatchIsLevelTriggeredUnlessAskedOtherwise) {
  const auto loop = make_loop();
  const Pipe pipe;
  pipe.put();
  pipe.put();
  int calls = 0;
  ASSERT_TRUE(loop->watch(pipe.in(), EPOLLIN, [&](unsigned events) {
    EXPECT_EQ(events, EPOLLIN);
    pipe.take();
    if (++calls == 2) loop->stop();
  }));
  loop->run();
  EXPECT_EQ(calls, 2);
}

TEST(EventLoop, OneShotComesOnceUntilWatchedAgain) {
  const auto loop = make_loop();
  const Pipe pipe;
  pipe.put();
  std::vector<int> calls;
  ASSERT_TRUE(loop->watch(pipe.in(), EPOLLIN | EPOLLONESHOT, [&](unsigned) {
    calls.push_back(1);
    (void)loop->after(kNsPerMs, [&] {
      EXPECT_EQ(calls.size(), 1U);
      ASSERT_TRUE(loop->watch(pipe.in(), EPOLLIN | EPOLLONESHOT, [&](unsigned) {
        calls.push_back(2);
        loop->stop();
      }));
    });
  }));
  loop->run();
  EXPECT_EQ(calls, (std::vector{1, 2}));
}

TEST(EventLoop, AnUnwatchedDescriptorIsSilentEvenInTheSameTurn) {
  const auto loop = make_loop();
  const Pipe a;
  const Pipe b;
  int calls = 0;
  const auto handler = [&](unsigned) {
    ++calls;
    loop->unwatch(a.in());
    loop->unwatch(b.in());
    loop->unwatch(b.in());
  };
  ASSERT_TRUE(loop->watch(a.in(), EPOLLIN, handler));
  ASSERT_TRUE(loop->watch(b.in(), EPOLLIN, handler));
  a.put();
  b.put();
  (void)loop->after(kNsPerMs, [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, ANewWatchOfADescriptorDoesNotGetTheOldOnesEvents) {
  const auto loop = make_loop();
  const Pipe a;
  const Pipe b;
  int old_calls = 0;
  int new_calls = 0;
  // Whichever comes first replaces both watches; the other's event of this turn is the old watch's.
  const auto handler = [&](unsigned) {
    ++old_calls;
    for (const Pipe* pipe : {&a, &b}) {
      loop->unwatch(pipe->in());
      pipe->take();
      ASSERT_TRUE(loop->watch(pipe->in(), EPOLLIN, [&](unsigned) { ++new_calls; }));
    }
  };
  ASSERT_TRUE(loop->watch(a.in(), EPOLLIN, handler));
  ASSERT_TRUE(loop->watch(b.in(), EPOLLIN, handler));
  a.put();
  b.put();
  (void)loop->after(kNsPerMs, [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(old_calls, 1);
  EXPECT_EQ(new_calls, 0);
}

TEST(EventLoop, ADescriptorThatCannotBeWatchedIsAStatus) {
  const auto loop = make_loop();
  const auto watched = loop->watch(1'000'000, EPOLLIN, [](unsigned) {});
  ASSERT_FALSE(watched);
  EXPECT_EQ(watched.error().code, Code::internal);
  loop->unwatch(1'000'000);
}

// ---- the end

TEST(EventLoop, DestroysWhatWasNotRun) {
  const auto witness = std::make_shared<int>(0);
  for (const unsigned hands : {0U, 2U}) {
    auto loop = make_loop(hands);
    loop->post([witness] { FAIL(); });
    (void)loop->after(0, [witness] { FAIL(); });
    // A destroyed task may still use the loop.
    auto posts = std::shared_ptr<int>(new int, [&loop = *loop, witness](int* it) {
      delete it;
      loop.post([witness] { FAIL(); });
    });
    loop->post([posts = std::move(posts)] { FAIL(); });
    for (int i = 0; i < 100; ++i) loop->offload([witness] {}, [witness] { FAIL(); });
    loop.reset();
    EXPECT_EQ(witness.use_count(), 1);
  }
}

}  // namespace
}  // namespace memkv
