// memkv_sim: the whole store in a simulated world, schedule by schedule, from one seed
// (docs/simulation.md).
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/mutant.h"
#include "sim/schedule.h"

namespace memkv::sim {
namespace {

constexpr std::uint64_t kFloorsFrom = 100;    // schedules; fewer prove nothing about how often
constexpr std::uint64_t kReplayEvery = 20;    // schedules; one in so many is run twice
constexpr std::uint64_t kMutantWithin = 300;  // schedules

constexpr std::array<const char*, 8> kMutants = {
    "skip_key_compare",  "skip_tenant_compare", "skip_crc_on_read", "publish_early",
    "ignore_generation", "commit_held",         "drop_newest_only", "ignore_rules"};

struct Arguments {
  std::uint64_t schedules = 20;
  std::uint64_t seed = 1;
  std::optional<std::uint64_t> only;
  std::string mutant;
  bool mutants = false;
  bool verbose = false;
  bool json = false;
};

// What to run to see the schedule again; also for a signal handler, which may not build a string.
char replay_command[256] = "";

void set_replay(const Arguments& arguments, std::uint64_t number) {
  std::snprintf(replay_command, sizeof replay_command, "memkv_sim --seed %llu --schedule %llu%s%s",
                static_cast<unsigned long long>(arguments.seed),
                static_cast<unsigned long long>(number),
                arguments.mutant.empty() ? "" : " --mutant ", arguments.mutant.c_str());
}

void on_crash(int signal) {
  const char* lines[] = {"\nCRASH in a schedule; again with: ", replay_command, "\n"};
  for (const char* line : lines) {
    if (write(STDERR_FILENO, line, std::strlen(line)) < 0) break;
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void on_check(const char* condition, const char* what, const char* file, int line) {
  std::fprintf(stderr, "\nCHECK failed: %s (%s) in %s:%d\nagain with: %s\n", what, condition, file,
               line, replay_command);
  std::abort();
}

void set_mutant_named([[maybe_unused]] const std::string& name) {
#if defined(MEMKV_TESTING)
  set_mutant(mutant_by_name(name));
#endif
}

// ---- one schedule, twice when something is found

bool report(const Arguments& arguments, std::uint64_t number, const Outcome& outcome) {
  std::printf("\nFINDING in schedule %llu of seed %llu: %s\n",
              static_cast<unsigned long long>(number),
              static_cast<unsigned long long>(arguments.seed), outcome.finding.c_str());
  std::printf("what happened last:\n");
  for (const std::string& line : outcome.last) std::printf("  %s\n", line.c_str());
  Totals again_totals;
  const Outcome again = run_schedule(arguments.seed, number, false, again_totals);
  const bool same = again.trace == outcome.trace && again.events == outcome.events &&
                    again.finding == outcome.finding;
  std::printf("a second run of it %s (%llu events, trace %016llx)\n",
              same ? "is the same, event by event" : "DIFFERS: something hidden decides",
              static_cast<unsigned long long>(again.events),
              static_cast<unsigned long long>(again.trace));
  std::printf("again with: %s --verbose\n", replay_command);
  return same;
}

// ---- floors

struct Floor {
  const char* name;
  std::uint64_t schedules;  // at least once in so many, on average
};
constexpr std::array<Floor, 16> kFaultFloors = {{{"cut_connection", 2},
                                                 {"flip_network", 2},
                                                 {"stall_network", 2},
                                                 {"refuse_connect", 10},
                                                 {"hang_connect", 20},
                                                 {"partition", 3},
                                                 {"fail_read", 5},
                                                 {"fail_write", 3},
                                                 {"torn_write", 3},
                                                 {"slow_disk", 3},
                                                 {"flip_read", 10},
                                                 {"misdirect_read", 8},
                                                 {"misdirect_write", 20},
                                                 {"lose_unflushed", 8},
                                                 {"torn_by_crash", 3},
                                                 {"bad_page", 5}}};

std::vector<std::string> missed_floors(const Totals& totals) {
  std::vector<std::string> missed;
  const auto floor = [&](const std::string& what, std::uint64_t number, std::uint64_t least) {
    if (number >= least) return;
    missed.push_back("only " + std::to_string(number) + " " + what + ", at least " +
                     std::to_string(least) + " were to be expected");
  };
  const std::uint64_t n = totals.schedules;
  floor("gets that were hits, of those of keys ever put", totals.get_ok, totals.get_known / 4);
  floor("hits on flash", totals.hits_flash, n);
  floor("acknowledged puts", totals.put_ok, 10 * n);
  floor("acknowledged drops", totals.dropped, n);
  floor("blocks evicted", totals.evicted, n);
  floor("blocks recovered", totals.recovered, n);
  floor("blocks found corrupt", totals.corrupt, n / 12);
  floor("collisions of fingerprints", totals.foreign, n / 10);
  floor("blocks served over a clean stop", totals.kept_over_stop, n);
  floor("new maps", totals.maps, n);
  floor("second copies", totals.copied, n);
  floor("second copies that a rule wants", totals.settled, n / 4);
  floor("blocks moved off a draining node", totals.drained, n / 4);
  floor("drops that count while maps change", totals.dropped_moving, n / 2);
  floor("drop generations that ended everywhere", totals.generations_over, n / 4);
  floor("puts denied, their generation being over", totals.put_denied, n);
  floor("blocks that outlived their TTL", totals.expired, n / 2);
  floor("blocks that paid a quota", totals.quota_evicted, n);
  floor("quotas that were held to", totals.quotas_held, n);
  floor("puts that were not admitted", totals.not_admitted, n / 4);
  floor("blocks found at a former place", totals.found_older, n / 4);
  for (const Floor& fault : kFaultFloors) {
    const auto fired = totals.fired.find(fault.name);
    floor(std::string(fault.name) + " faults", fired == totals.fired.end() ? 0 : fired->second,
          n / fault.schedules);
  }
  return missed;
}

// ---- summaries

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::pair<const char*, std::uint64_t>> rows(const Totals& t) {
  return {{"schedules", t.schedules},
          {"events", t.events},
          {"puts", t.puts},
          {"put_ok", t.put_ok},
          {"put_exists", t.put_exists},
          {"put_conflict", t.put_conflict},
          {"put_busy", t.put_busy},
          {"gets", t.gets},
          {"gets_of_known_keys", t.get_known},
          {"get_ok", t.get_ok},
          {"bytes_checked", t.bytes_checked},
          {"matches", t.matches},
          {"matched", t.matched},
          {"drops", t.drops},
          {"dropped", t.dropped},
          {"cancelled", t.cancelled},
          {"abandoned", t.abandoned},
          {"timeouts", t.timeouts},
          {"unreachable", t.unreachable},
          {"hits_flash", t.hits_flash},
          {"corrupt", t.corrupt},
          {"foreign", t.foreign},
          {"evicted", t.evicted},
          {"rewritten", t.rewritten},
          {"recovered", t.recovered},
          {"reformats", t.reformats},
          {"kept_over_stop", t.kept_over_stop},
          {"maps", t.maps},
          {"copied", t.copied},
          {"settled", t.settled},
          {"drained", t.drained},
          {"found_older", t.found_older},
          {"dropped_moving", t.dropped_moving},
          {"put_denied", t.put_denied},
          {"generations_over", t.generations_over},
          {"expired", t.expired},
          {"quota_evicted", t.quota_evicted},
          {"quotas_held", t.quotas_held},
          {"not_admitted", t.not_admitted}};
}

void print_summary(const Arguments& arguments, const Totals& totals, double seconds,
                   std::size_t findings) {
  if (arguments.json) {
    std::printf("{\"seed\": %llu, \"findings\": %zu, \"seconds\": %.3f",
                static_cast<unsigned long long>(arguments.seed), findings, seconds);
    for (const auto& [name, number] : rows(totals)) {
      std::printf(", \"%s\": %llu", name, static_cast<unsigned long long>(number));
    }
    std::printf(", \"faults\": {");
    const char* comma = "";
    for (const auto& [name, number] : totals.fired) {
      std::printf("%s\"%s\": %llu", comma, name.c_str(), static_cast<unsigned long long>(number));
      comma = ", ";
    }
    std::printf("}}\n");
    return;
  }
  std::printf("%llu schedules of seed %llu, %.1f s, %.0f a second, %zu findings\n",
              static_cast<unsigned long long>(totals.schedules),
              static_cast<unsigned long long>(arguments.seed), seconds,
              static_cast<double>(totals.schedules) / seconds, findings);
  for (const auto& [name, number] : rows(totals)) {
    std::printf("  %-20s %12llu\n", name, static_cast<unsigned long long>(number));
  }
  std::printf("faults that fired\n");
  for (const auto& [name, number] : totals.fired) {
    std::printf("  %-20s %12llu\n", name.c_str(), static_cast<unsigned long long>(number));
  }
}

// ---- what is asked for

int run_all(const Arguments& arguments) {
  set_mutant_named(arguments.mutant);
  Totals totals;
  const auto start = std::chrono::steady_clock::now();
  const std::uint64_t first = arguments.only.value_or(0);
  const std::uint64_t end = arguments.only ? first + 1 : arguments.schedules;
  for (std::uint64_t number = first; number < end; ++number) {
    set_replay(arguments, number);
    const Outcome outcome = run_schedule(arguments.seed, number, arguments.verbose, totals);
    if (!outcome.finding.empty()) {
      report(arguments, number, outcome);
      print_summary(arguments, totals, seconds_since(start), 1);
      return 1;
    }
    if (number % kReplayEvery != 0) continue;
    Totals again;
    if (run_schedule(arguments.seed, number, false, again).trace == outcome.trace) continue;
    std::printf("FINDING: schedule %llu of seed %llu is not the same when it is run again\n",
                static_cast<unsigned long long>(number),
                static_cast<unsigned long long>(arguments.seed));
    return 1;
  }
  print_summary(arguments, totals, seconds_since(start), 0);
  if (arguments.only || totals.schedules < kFloorsFrom) return 0;
  const auto missed = missed_floors(totals);
  for (const std::string& sentence : missed)
    std::fprintf(stderr, "floor missed: %s\n", sentence.c_str());
  return missed.empty() ? 0 : 1;
}

// The schedule in which the mutant died; none when it survived. It must die of what the oracle says
// about bytes, so findings of other kinds do not count.
std::optional<std::uint64_t> hunt(const Arguments& arguments, std::string& how) {
  Totals totals;
  for (std::uint64_t number = 0; number < kMutantWithin; ++number) {
    set_replay(arguments, number);
    const Outcome outcome = run_schedule(arguments.seed, number, false, totals);
    if (!outcome.finding.starts_with("get of ")) continue;
    how = outcome.finding;
    return number;
  }
  return std::nullopt;
}

int run_mutants(Arguments arguments) {
  int survivors = 0;
  std::uint64_t latest = 0;
  for (const char* name : kMutants) {
    arguments.mutant = name;
    set_mutant_named(name);
    std::string how;
    const auto died = hunt(arguments, how);
    if (died) {
      latest = std::max(latest, *died);
      std::printf("mutant %-20s died in schedule %llu: %s\n", name,
                  static_cast<unsigned long long>(*died), how.c_str());
    } else {
      ++survivors;
      std::printf("mutant %-20s SURVIVED %llu schedules\n", name,
                  static_cast<unsigned long long>(kMutantWithin));
    }
    std::fflush(stdout);
  }
  // Without a mutant the same schedules find nothing: what killed them was the mutant.
  arguments.mutant.clear();
  arguments.schedules = latest + 1;
  const int canary = run_all(arguments);
  return survivors > 0 || canary != 0 ? 1 : 0;
}

[[noreturn]] void usage(const std::string& wrong) {
  std::fprintf(
      stderr,
      "%s\nusage: memkv_sim [--schedules N] [--seed S] [--schedule K] [--mutant NAME] [--mutants] "
      "[--verbose] [--json]\n",
      wrong.c_str());
  std::exit(2);
}

std::uint64_t number_of(const std::string& flag, const char* text) {
  std::uint64_t number = 0;
  const std::string_view all = text == nullptr ? "" : text;
  const auto [end, error] = std::from_chars(all.data(), all.data() + all.size(), number);
  if (all.empty() || error != std::errc() || end != all.data() + all.size()) {
    usage(flag + " takes a number");
  }
  return number;
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (flag == "--schedules") {
      arguments.schedules = number_of(flag, value), ++i;
    } else if (flag == "--seed") {
      arguments.seed = number_of(flag, value), ++i;
    } else if (flag == "--schedule") {
      arguments.only = number_of(flag, value), ++i;
    } else if (flag == "--mutant") {
      arguments.mutant = value == nullptr ? "" : value, ++i;
#if defined(MEMKV_TESTING)
      if (mutant_by_name(arguments.mutant) == Mutant::none) usage("no mutant: " + arguments.mutant);
#else
      usage("this build has no mutants; configure it with MEMKV_TESTING");
#endif
    } else if (flag == "--mutants") {
      arguments.mutants = true;
    } else if (flag == "--verbose") {
      arguments.verbose = true;
    } else if (flag == "--json") {
      arguments.json = true;
    } else {
      usage("unknown: " + flag);
    }
  }
  return arguments;
}

}  // namespace
}  // namespace memkv::sim

int main(int argc, char** argv) {
  using namespace memkv::sim;
  const Arguments arguments = parse(argc, argv);
  memkv::set_check_handler(on_check);
  std::signal(SIGABRT, on_crash);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  std::signal(SIGSEGV, on_crash);
#endif
  return arguments.mutants ? run_mutants(arguments) : run_all(arguments);
}
