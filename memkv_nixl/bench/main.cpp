// memkv_bench: one measure each time it is asked, driven by `python -m memkv_nixl.bench`.
//
// A line in is a measure with its numbers; a line out is bytes per second, or `error` and a
// sentence:
//
//   tcp BLOCK_BYTES BATCH CHUNK_BYTES TOTAL_BYTES
//
//   read|write PATH IO_BYTES DEPTH FIRST_BYTE TOTAL_BYTES
//
//   put|get ADDRESS BLOCK_BYTES BATCH BATCHES ROUND IN_FLIGHT
//
//   engine PATH DRAM_BYTES put|get BLOCK_BYTES BLOCKS ROUND WINDOW
//
//   clean ADDRESS
//
//   number ADDRESS NAME
//
//   trust ADDRESS CA_FILE
//
// `get` checks the last batches byte by byte; `clean` waits until everything put is on the device
// and answers 0; `number` gives a number of STAT. To an
// address that `trust` named clients speak TLS.
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>

#include "measures.h"

namespace memkv::bench {
namespace {

constexpr std::uint64_t kSeed = 20261121;

// Clients and memory live as long as the program, so that no measure pays for connecting or first
// touch.
class Bench {
 public:
  Result<double> run(std::istringstream& line) {
    std::string what;
    line >> what;
    if (what == "tcp") return tcp(line);
    if (what == "read" || what == "write") return raw(line, what == "write");
    if (what == "put" || what == "get") return blocks(line, what == "put");
    if (what == "engine") return engine(line);
    if (what == "clean") return clean(line);
    if (what == "number") return number(line);
    if (what == "trust") return trust(line);
    return fail(Code::invalid, "no such measure: " + what);
  }

 private:
  Result<double> tcp(std::istringstream& line) {
    std::size_t block_bytes = 0;
    std::size_t batch = 0;
    std::size_t chunk = 0;
    std::uint64_t total = 0;
    if (!(line >> block_bytes >> batch >> chunk >> total)) return usage();
    return plain_tcp(memory(batch, block_bytes, 0, true), memory(batch, block_bytes, 0, false),
                     chunk, total);
  }

  Result<double> raw(std::istringstream& line, bool write) {
    std::string path;
    RawPlan plan{.write = write};
    std::size_t memory_bytes = 0;
    if (!(line >> path >> plan.io_bytes >> plan.depth >> plan.first_byte >> plan.total_bytes >>
          memory_bytes >> plan.flush_every_bytes)) {
      return usage();
    }
    return raw_device(path, plan, memory(memory_bytes / plan.io_bytes, plan.io_bytes, 100, write));
  }

  Result<double> blocks(std::istringstream& line, bool put) {
    std::string address;
    std::size_t block_bytes = 0;
    std::size_t batch = 0;
    Run run;
    if (!(line >> address >> block_bytes >> batch >> run.batches >> run.round >> run.in_flight)) {
      return usage();
    }
    const Result<Client*> client = client_of(address);
    if (!client) return fail(client.error());
    std::vector<Blocks*> places;
    for (unsigned i = 0; i < run.in_flight; ++i) {
      places.push_back(&memory(batch, block_bytes, i, put));
      if (!put) std::memset(places.back()->all().data(), 0, places.back()->all().size());
    }
    const Result<double> speed =
        put ? put_blocks(**client, places, run) : get_blocks(**client, places, run);
    if (!speed || put) return speed;
    for (unsigned i = 0; i < run.in_flight; ++i) {
      const std::span<std::byte> wanted = memory(batch, block_bytes, i, true).all();
      if (std::memcmp(wanted.data(), places[i]->all().data(), wanted.size()) != 0) {
        return fail(Code::corrupt, "a block came back with other bytes than were put");
      }
    }
    return speed;
  }

  Result<double> engine(std::istringstream& line) {
    std::string path;
    std::string what;
    std::size_t dram_bytes = 0;
    std::size_t block_bytes = 0;
    std::size_t blocks = 0;
    std::uint64_t round = 0;
    std::size_t window = 0;
    if (!(line >> path >> dram_bytes >> what >> block_bytes >> blocks >> round >> window)) {
      return usage();
    }
    return engine_alone(path, dram_bytes, what == "put", block_bytes, blocks, round, window);
  }

  Result<double> clean(std::istringstream& line) {
    std::string address;
    if (!(line >> address)) return usage();
    const Result<Client*> client = client_of(address);
    if (!client) return fail(client.error());
    if (Result<void> waited = wait_until_clean(**client); !waited) return fail(waited.error());
    return 0.0;
  }

  Result<double> number(std::istringstream& line) {
    std::string address;
    std::string name;
    if (!(line >> address >> name)) return usage();
    const Result<Client*> client = client_of(address);
    if (!client) return fail(client.error());
    const Result<std::uint64_t> value = node_number(**client, name);
    if (!value) return fail(value.error());
    return static_cast<double>(*value);
  }

  Result<double> trust(std::istringstream& line) {
    std::string address;
    if (!(line >> address >> trusted_[address])) return usage();
    return 0.0;
  }

  static std::unexpected<Status> usage() {
    return fail(Code::invalid, "the measure's numbers are not as memkv_bench's first lines say");
  }

  Blocks& memory(std::size_t batch, std::size_t block_bytes, unsigned place, bool source) {
    const auto key = std::tuple(batch, block_bytes, place, source);
    std::unique_ptr<Blocks>& slot = memory_[key];
    if (!slot) slot = std::make_unique<Blocks>(batch, block_bytes, source ? kSeed + place : 0);
    return *slot;
  }

  Result<Client*> client_of(const std::string& address) {
    std::unique_ptr<Client>& slot = clients_[address];
    if (!slot) {
      ClientOptions options;
      options.nodes = {address};
      options.name = "memkv_bench";
      options.tls.ca = trusted_[address];
      Result<std::unique_ptr<Client>> client = Client::open(options);
      if (!client) return fail(client.error());
      slot = std::move(*client);
    }
    return slot.get();
  }

  std::map<std::tuple<std::size_t, std::size_t, unsigned, bool>, std::unique_ptr<Blocks>> memory_;
  std::map<std::string, std::string> trusted_;  // by address; empty: without TLS
  std::map<std::string, std::unique_ptr<Client>> clients_;
};

}  // namespace
}  // namespace memkv::bench

int main() {
  memkv::bench::Bench bench;
  std::string text;
  while (std::getline(std::cin, text)) {
    std::istringstream line(text);
    const memkv::Result<double> answer = bench.run(line);
    if (answer) {
      std::cout << std::fixed << *answer << std::endl;
    } else {
      std::cout << "error " << answer.error().message() << std::endl;
    }
  }
  return 0;
}
