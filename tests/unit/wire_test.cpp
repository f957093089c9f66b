// What the wire refuses: every field at its limit and beyond it, in what is received and in what
// would be sent.
#include "wire/wire.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "support/wire_golden.h"

namespace memkv::wire {
namespace {

using test::Bytes;

// The golden body, with `value` at `offset`.
template <typename Number>
Bytes patched(std::string_view name, std::size_t offset, Number value) {
  const test::GoldenFrame golden = test::golden_frame(name);
  Bytes body(golden.body.begin(), golden.body.end());
  std::memcpy(&body.at(offset + sizeof value - 1) - (sizeof value - 1), &value, sizeof value);
  return body;
}
Bytes patched_u8(std::string_view name, std::size_t offset, std::uint8_t value) {
  return patched(name, offset, value);
}
Bytes patched_u16(std::string_view name, std::size_t offset, std::uint16_t value) {
  return patched(name, offset, value);
}
Bytes patched_u32(std::string_view name, std::size_t offset, std::uint32_t value) {
  return patched(name, offset, value);
}

// A body written field by field.
class Made {
 public:
  Made& u8(std::uint8_t value) { return number(value); }
  Made& u16(std::uint16_t value) { return number(value); }
  Made& u32(std::uint32_t value) { return number(value); }
  Made& u64(std::uint64_t value) { return number(value); }
  Made& fill(std::size_t count, char value = 0) {
    bytes_.insert(bytes_.end(), count, static_cast<std::byte>(value));
    return *this;
  }
  // A run of `count` equal bytes.
  Made& run(std::size_t count, char value = 'k') {
    return u16(static_cast<std::uint16_t>(count)).fill(count, value);
  }
  [[nodiscard]] const Bytes& bytes() const { return bytes_; }

 private:
  template <typename Number>
  Made& number(Number value) {
    const auto raw = std::bit_cast<std::array<std::byte, sizeof value>>(value);
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    return *this;
  }
  Bytes bytes_;
};

template <typename T>
Code code_of(const Result<T>& result) {
  if (result) return Code::ok;
  EXPECT_FALSE(result.error().text.empty());
  return result.error().code;
}

template <typename Body>
std::size_t encoded(const Body& body) {
  std::array<std::byte, kSmallBodyMax> out;
  return encode(body, out);
}

Header header_of(Type type, std::uint64_t request = 1) {
  return {.type = type, .request = request, .payload_bytes = type == Type::data ? 1u : 0u};
}
Code decoded(const Header& header) {
  std::array<std::byte, kHeaderBytes> bytes;
  encode_header(header, bytes);
  return code_of(decode_header(bytes));
}

Bytes run_of(std::size_t count, char value = 'k') {
  return Bytes(count, static_cast<std::byte>(value));
}

// ---- the header

TEST(WireHeader, EveryTypeComesBackAndNoOther) {
  for (unsigned number = 0; number < 256; ++number) {
    Header header = header_of(static_cast<Type>(number));
    const bool connection = number >= 1 && number <= 4;
    if (connection) header.request = 0;
    EXPECT_EQ(decoded(header), number >= 1 && number <= kTypeMax ? Code::ok : Code::protocol)
        << number;
  }
}

TEST(WireHeader, RequestNumbersStandWhereTheyBelong) {
  for (const Type type : {Type::hello, Type::challenge, Type::auth, Type::welcome}) {
    EXPECT_EQ(decoded(header_of(type, 0)), Code::ok);
    EXPECT_EQ(decoded(header_of(type, 1)), Code::protocol);
  }
  for (const Type type : {Type::refuse, Type::report}) {
    EXPECT_EQ(decoded(header_of(type, 0)), Code::ok);
    EXPECT_EQ(decoded(header_of(type, ~0ull)), Code::ok);
  }
  for (const Type type : {Type::match, Type::put, Type::get, Type::data, Type::map_reply}) {
    EXPECT_EQ(decoded(header_of(type, 0)), Code::protocol);
    EXPECT_EQ(decoded(header_of(type, ~0ull)), Code::ok);
  }
}

TEST(WireHeader, BodiesAndPayloadsHaveLimits) {
  Header header = header_of(Type::put);
  header.body_bytes = kBodyBytesMax;
  EXPECT_EQ(decoded(header), Code::ok);
  ++header.body_bytes;
  EXPECT_EQ(decoded(header), Code::too_large);

  header = header_of(Type::data);
  header.payload_bytes = kDataBytesMax;
  EXPECT_EQ(decoded(header), Code::ok);
  ++header.payload_bytes;
  EXPECT_EQ(decoded(header), Code::too_large);
  header.payload_bytes = 0;
  EXPECT_EQ(decoded(header), Code::protocol);

  header = header_of(Type::put);
  header.payload_bytes = 1;
  EXPECT_EQ(decoded(header), Code::protocol);
}

TEST(WireHeader, MagicAndZerosAreChecked) {
  std::array<std::byte, kHeaderBytes> good;
  encode_header(header_of(Type::stat), good);
  for (const std::size_t at : {0, 1, 2, 3, 5, 6, 7}) {
    std::array<std::byte, kHeaderBytes> bad = good;
    bad[at] ^= std::byte{0x20};
    const std::uint32_t crc = crc32c(std::span(bad).first(28));
    std::memcpy(bad.data() + 28, &crc, sizeof crc);
    const Result<Header> header = decode_header(bad);
    EXPECT_EQ(code_of(header), Code::protocol) << at;
    const std::string_view named = at < 4 ? "MKV1" : "zero";
    EXPECT_NE(header.error().text.find(named), std::string::npos) << at;
  }
}

TEST(WireHeader, AForeignProtocolIsNamed) {
  std::array<std::byte, kHeaderBytes> http{};
  std::memcpy(http.data(), "GET / HTTP/1.1\r\nHost: memkv\r\n\r\n", 31);
  const Result<Header> header = decode_header(http);
  ASSERT_FALSE(header);
  EXPECT_NE(header.error().text.find("MKV1"), std::string::npos);
}

TEST(WireHeader, ABodyIsHeldToItsHeader) {
  const Bytes body = run_of(100);
  Header header = header_of(Type::put);
  header.body_bytes = 100;
  header.body_crc = crc32c(body);
  EXPECT_EQ(code_of(check_body(header, body)), Code::ok);
  EXPECT_EQ(code_of(check_body(header, std::span(body).first(99))), Code::protocol);
  ++header.body_crc;
  EXPECT_EQ(code_of(check_body(header, body)), Code::protocol);
  EXPECT_EQ(code_of(check_body(header_of(Type::stat), {})), Code::ok);
}

// ---- the connection

TEST(WireConnection, VersionsMustMeet) {
  const auto with = [](std::uint16_t least, std::uint16_t most) {
    Bytes body = patched_u16("hello", 0, least);
    std::memcpy(body.data() + 2, &most, sizeof most);
    return code_of(decode_hello(body));
  };
  EXPECT_EQ(with(1, 1), Code::ok);
  EXPECT_EQ(with(1, 0xffff), Code::ok);  // a newer client that still speaks ours
  EXPECT_EQ(with(kVersionMax + 1, 0xffff), Code::unsupported);
  EXPECT_EQ(with(0, 1), Code::protocol);
  EXPECT_EQ(with(2, 1), Code::protocol);

  EXPECT_EQ(code_of(decode_challenge(patched_u16("challenge", 0, 0))), Code::unsupported);
  EXPECT_EQ(code_of(decode_challenge(patched_u16("challenge", 0, kVersionMax + 1))),
            Code::unsupported);
  EXPECT_EQ(encoded(Challenge{.version = kVersionMax + 1}), 0);
}

TEST(WireConnection, UnknownBitsAreNoError) {
  EXPECT_EQ(decode_hello(patched_u32("hello", 4, 0x80000001))->transports, 0x80000001);
  EXPECT_EQ(decode_challenge(patched_u32("challenge", 4, 0x80000000))->auth, 0x80000000);
  EXPECT_EQ(decode_welcome(patched_u32("welcome", 20, 0x80000001))->transports, 0x80000001);
  EXPECT_EQ(code_of(decode_hello(patched_u32("hello", 4, 0))), Code::protocol);
  EXPECT_EQ(code_of(decode_welcome(patched_u32("welcome", 20, 0))), Code::protocol);
}

TEST(WireConnection, NamesAreShortAndPrintable) {
  const auto hello = [](std::size_t count, char value) {
    const Bytes body = Made().u16(1).u16(1).u32(1).u64(0).run(count, value).bytes();
    return code_of(decode_hello(body));
  };
  EXPECT_EQ(hello(0, 'n'), Code::ok);
  EXPECT_EQ(hello(kNameBytesMax, '~'), Code::ok);
  EXPECT_EQ(hello(kNameBytesMax + 1, 'n'), Code::too_large);
  for (const char bad : {'\0', '\n', '\x1f', '\x7f', '\x80', '\xff'}) {
    EXPECT_EQ(hello(3, bad), Code::protocol) << static_cast<int>(bad);
  }
  const std::string at_limit(kNameBytesMax, 'n');
  EXPECT_GT(encoded(Hello{.name = at_limit}), 0);
  const std::string beyond(kNameBytesMax + 1, 'n');
  EXPECT_EQ(encoded(Hello{.name = beyond}), 0);
  EXPECT_EQ(encoded(Hello{.name = "two\nlines"}), 0);
}

TEST(WireConnection, TokensAndProofsHaveLimits) {
  const auto auth = [](std::size_t token, std::size_t proof) {
    const Bytes tokens = run_of(token);
    const Bytes proofs = run_of(proof);
    const Code code = code_of(decode_auth(Made().run(token).run(proof).bytes()));
    EXPECT_EQ(encoded(Auth{tokens, proofs}) > 0, code == Code::ok);
    return code;
  };
  EXPECT_EQ(auth(kTokenBytesMax, kProofBytesMax), Code::ok);
  EXPECT_EQ(auth(kTokenBytesMax + 1, 0), Code::too_large);
  EXPECT_EQ(auth(1, kProofBytesMax + 1), Code::too_large);
  EXPECT_EQ(auth(1, 0), Code::ok);
  EXPECT_EQ(auth(0, 1), Code::protocol);
}

TEST(WireConnection, WelcomeOffersNothingImpossible) {
  for (const std::size_t limit : {24, 28, 32, 36}) {
    EXPECT_EQ(code_of(decode_welcome(patched_u32("welcome", limit, 0))), Code::protocol) << limit;
    EXPECT_EQ(code_of(decode_welcome(patched_u32("welcome", limit, 1))), Code::ok) << limit;
  }
  EXPECT_EQ(code_of(decode_welcome(patched<std::uint64_t>("welcome", 40, 0))), Code::protocol);
  EXPECT_EQ(code_of(decode_welcome(patched_u32("welcome", 24, kBatchMax + 1))), Code::too_large);
  EXPECT_EQ(code_of(decode_welcome(patched_u32("welcome", 28, kItemsMax + 1))), Code::too_large);
  EXPECT_EQ(code_of(decode_welcome(patched_u32("welcome", 36, kBlockBytesMax + 1))),
            Code::too_large);
  EXPECT_EQ(code_of(decode_welcome(patched_u8("welcome", 52, '\t'))), Code::protocol);
  EXPECT_EQ(encoded(Welcome{}), 0);  // its limits are still to be set
  const auto named = [](std::size_t count) {
    const std::string software(count, 'm');
    return encoded(Welcome{
        .requests_max = 1, .block_bytes_max = 1, .put_bytes_granted_max = 1, .software = software});
  };
  EXPECT_EQ(named(kNameBytesMax), 50 + kNameBytesMax);
  EXPECT_EQ(named(kNameBytesMax + 1), 0);
}

TEST(WireConnection, ARefusalIsNoSuccess) {
  for (unsigned number = 0; number < 256; ++number) {
    const auto code = static_cast<Code>(number);
    const bool fits = number <= kCodeMax && code != Code::ok && code != Code::exists;
    EXPECT_EQ(code_of(decode_refuse(
                  patched<std::uint8_t>("refuse", 0, static_cast<std::uint8_t>(number)))),
              fits ? Code::ok : Code::protocol)
        << number;
    EXPECT_EQ(encoded(Refuse{code, "why"}) > 0, fits);
  }
  EXPECT_EQ(code_of(decode_refuse(patched_u8("refuse", 1, 1))), Code::protocol);
}

TEST(WireConnection, ASentenceIsMadeToFit) {
  const auto sent = [](std::string_view text) {
    std::array<std::byte, kSmallBodyMax> out;
    const std::size_t size = encode(Refuse{Code::busy, text}, out);
    const Result<Refuse> refused = decode_refuse(std::span(out).first(size));
    return refused ? std::string(refused->text) : "not decoded";
  };
  EXPECT_EQ(sent(std::string(kTextBytesMax, 'w')), std::string(kTextBytesMax, 'w'));
  EXPECT_EQ(sent(std::string(5000, 'w')), std::string(kTextBytesMax, 'w'));
  EXPECT_EQ(sent("a\nb\x7f\xc3\xa4~"), "a?b???~");
  EXPECT_EQ(code_of(decode_refuse(Made().u8(4).u8(0).run(kTextBytesMax).bytes())), Code::ok);
  EXPECT_EQ(code_of(decode_refuse(Made().u8(4).u8(0).run(kTextBytesMax + 1).bytes())),
            Code::too_large);
  EXPECT_EQ(code_of(decode_refuse(Made().u8(4).u8(0).run(3, '\n').bytes())), Code::protocol);
}

// ---- one block

TEST(WireBlock, ItemsHaveALimit) {
  const auto at = [](std::uint32_t item) {
    std::vector<Code> codes{code_of(decode_grant(patched_u32("grant", 0, item))),
                            code_of(decode_commit(patched_u32("commit", 0, item))),
                            code_of(decode_put_done(patched_u32("put_done", 4, item))),
                            code_of(decode_get_block(patched_u32("get_block", 4, item))),
                            code_of(decode_get_block(patched_u32("get_block_missing", 4, item))),
                            code_of(decode_data(patched_u32("data", 0, item)))};
    for (const Code code : codes) EXPECT_EQ(code, codes[0]);
    const Bytes crcs = run_of(4);
    for (const std::size_t bytes :
         {encoded(Grant{item}), encoded(Data{item, 0}), encoded(Commit{item, crcs}),
          encoded(PutDone{.item = item, .code = Code::busy}),
          encoded(GetBlock{.item = item, .code = Code::busy})}) {
      EXPECT_EQ(bytes > 0, codes[0] == Code::ok);
    }
    return codes[0];
  };
  EXPECT_EQ(at(kBatchMax - 1), Code::ok);
  EXPECT_EQ(at(kBatchMax), Code::too_large);
  EXPECT_EQ(at(kAllItems), Code::too_large);
}

TEST(WireBlock, CancelNamesOneItemOrAll) {
  const auto cancel = [](std::uint32_t item) {
    return code_of(decode_cancel(patched_u32("cancel", 0, item)));
  };
  EXPECT_EQ(cancel(kBatchMax - 1), Code::ok);
  EXPECT_EQ(cancel(kAllItems), Code::ok);
  EXPECT_EQ(cancel(kBatchMax), Code::too_large);
  EXPECT_EQ(cancel(kAllItems - 1), Code::too_large);
  EXPECT_EQ(encoded(Cancel{kBatchMax}), 0);
}

TEST(WireBlock, DataStaysInTheBlock) {
  EXPECT_EQ(code_of(decode_data(patched_u32("data", 4, kBlockBytesMax - 1))), Code::ok);
  EXPECT_EQ(code_of(decode_data(patched_u32("data", 4, kBlockBytesMax))), Code::too_large);
  EXPECT_EQ(encoded(Data{0, kBlockBytesMax}), 0);
}

TEST(WireBlock, CommitCarriesOneToFiveHundredTwelveCrcs) {
  const auto commit = [](std::uint32_t count, std::size_t given) {
    return code_of(decode_commit(Made().u32(0).u32(count).fill(4 * given).bytes()));
  };
  EXPECT_EQ(commit(1, 1), Code::ok);
  EXPECT_EQ(commit(kUnitsMax, kUnitsMax), Code::ok);
  EXPECT_EQ(commit(kUnitsMax + 1, kUnitsMax + 1), Code::too_large);
  EXPECT_EQ(commit(0, 0), Code::protocol);
  EXPECT_EQ(commit(2, 1), Code::protocol);
  EXPECT_EQ(commit(1, 2), Code::protocol);
  EXPECT_EQ(commit(0xffffffff, 1), Code::protocol);
  EXPECT_EQ(encoded(Commit{0, run_of(4 * kUnitsMax)}), 8 + 4 * kUnitsMax);
  EXPECT_EQ(encoded(Commit{0, run_of(4 * kUnitsMax + 4)}), 0);
  EXPECT_EQ(encoded(Commit{0, run_of(3)}), 0);
  EXPECT_EQ(encoded(Commit{}), 0);
}

TEST(WireBlock, OnlyAPutThatSucceededHasAnIncarnation) {
  for (unsigned number = 0; number < 256; ++number) {
    const auto code = static_cast<Code>(number);
    const auto done = [number](std::uint64_t incarnation) {
      return code_of(decode_put_done(Made()
                                         .u32(0)
                                         .u32(0)
                                         .u8(static_cast<std::uint8_t>(number))
                                         .fill(7)
                                         .u64(incarnation)
                                         .bytes()));
    };
    EXPECT_EQ(done(0), number <= kCodeMax ? Code::ok : Code::protocol) << number;
    EXPECT_EQ(done(1), code == Code::ok ? Code::ok : Code::protocol) << number;
    EXPECT_EQ(encoded(PutDone{.code = code, .incarnation = 1}) > 0, code == Code::ok) << number;
  }
  for (std::size_t zero = 9; zero < 16; ++zero) {
    EXPECT_EQ(code_of(decode_put_done(patched_u8("put_done", zero, 1))), Code::protocol) << zero;
  }
}

struct Gotten {
  Code code = Code::ok;
  std::uint64_t incarnation = 1;
  std::uint32_t length = 1, first = 0, crcs = 1;
};
// What the decoder says, after seeing to it that the encoder agrees.
Code get_block(const Gotten& got) {
  const Bytes crcs = run_of(std::size_t{4} * got.crcs);
  const Code code = code_of(decode_get_block(Made()
                                                 .u32(0)
                                                 .u32(0)
                                                 .u8(static_cast<std::uint8_t>(got.code))
                                                 .fill(7)
                                                 .u64(got.incarnation)
                                                 .u32(got.length)
                                                 .u32(got.first)
                                                 .u32(got.crcs)
                                                 .fill(crcs.size(), 'k')
                                                 .bytes()));
  EXPECT_EQ(encoded(GetBlock{.code = got.code,
                             .incarnation = got.incarnation,
                             .block_length = got.length,
                             .first_unit = got.first,
                             .crcs = crcs}) > 0,
            code == Code::ok);
  return code;
}

TEST(WireBlock, UnitsOfAGetAreUnitsOfTheBlock) {
  EXPECT_EQ(get_block({}), Code::ok);
  EXPECT_EQ(get_block({.length = 0}), Code::protocol);
  EXPECT_EQ(get_block({.length = kBlockBytesMax, .crcs = kUnitsMax}), Code::ok);
  EXPECT_EQ(get_block({.length = kBlockBytesMax + 1}), Code::too_large);
  EXPECT_EQ(get_block({.length = kBlockBytesMax, .crcs = kUnitsMax + 1}), Code::too_large);
  EXPECT_EQ(get_block({.crcs = 0}), Code::protocol);
  EXPECT_EQ(get_block({.crcs = 2}), Code::protocol);
  EXPECT_EQ(get_block({.first = 1}), Code::protocol);
  EXPECT_EQ(get_block({.length = 2 * kUnitBytesMin, .first = 1}), Code::ok);
  EXPECT_EQ(get_block({.length = 2 * kUnitBytesMin, .first = 1, .crcs = 2}), Code::protocol);
  EXPECT_EQ(get_block({.length = 2 * kUnitBytesMin + 1, .first = 1, .crcs = 2}), Code::ok);
  EXPECT_EQ(get_block({.first = 0xffffffff}), Code::protocol);
}

TEST(WireBlock, AGetThatFailedHasNoUnits) {
  const Gotten missing{.code = Code::not_found, .incarnation = 0, .length = 0, .crcs = 0};
  const auto with = [&missing](auto change) {
    Gotten got = missing;
    change(got);
    return get_block(got);
  };
  EXPECT_EQ(get_block(missing), Code::ok);
  EXPECT_EQ(with([](Gotten& got) { got.incarnation = 1; }), Code::protocol);
  EXPECT_EQ(with([](Gotten& got) { got.length = 1; }), Code::protocol);
  EXPECT_EQ(with([](Gotten& got) { got.first = 1; }), Code::protocol);
  EXPECT_EQ(with([](Gotten& got) { got.crcs = 1; }), Code::protocol);
  EXPECT_EQ(with([](Gotten& got) { got.code = Code::exists; }), Code::protocol);
  EXPECT_EQ(with([](Gotten& got) { got.code = static_cast<Code>(kCodeMax); }), Code::ok);
  EXPECT_EQ(with([](Gotten& got) { got.code = static_cast<Code>(kCodeMax + 1); }), Code::protocol);
  const auto outside = [&with](std::uint32_t length) {
    return with([length](Gotten& got) { got.code = Code::invalid, got.length = length; });
  };
  EXPECT_EQ(outside(0), Code::ok);
  EXPECT_EQ(outside(kBlockBytesMax), Code::ok);
  EXPECT_EQ(outside(kBlockBytesMax + 1), Code::too_large);
  EXPECT_EQ(code_of(decode_get_block(patched_u8("get_block", 15, 1))), Code::protocol);
}

TEST(WireBlock, ReportNamesAKey) {
  const auto report = [](std::size_t key) {
    const Bytes bytes = run_of(key);
    const Code code = code_of(decode_report(Made().fill(20).u32(0).u64(1).run(key).bytes()));
    EXPECT_EQ(encoded(Report{{}, 1, bytes}) > 0, code == Code::ok);
    return code;
  };
  EXPECT_EQ(report(0), Code::protocol);
  EXPECT_EQ(report(1), Code::ok);
  EXPECT_EQ(report(kKeyBytesMax), Code::ok);
  EXPECT_EQ(report(kKeyBytesMax + 1), Code::too_large);
  EXPECT_EQ(code_of(decode_report(patched_u8("report", 20, 1))), Code::protocol);
}

TEST(WireBlock, ListNamesHowMany) {
  const auto list = [](std::uint32_t count) {
    const Code code = code_of(decode_list(Made().u64(0).u32(count).fill(4).bytes()));
    EXPECT_EQ(encoded(List{.count = count}) > 0, code == Code::ok);
    return code;
  };
  EXPECT_EQ(list(0), Code::protocol);
  EXPECT_EQ(list(1), Code::ok);
  EXPECT_EQ(list(kListMax), Code::ok);
  EXPECT_EQ(list(kListMax + 1), Code::too_large);
  EXPECT_EQ(code_of(decode_list(patched_u8("list", 14, 1))), Code::ok);
  EXPECT_EQ(code_of(decode_list(patched_u8("list", 14, 3))), Code::protocol);
  EXPECT_EQ(code_of(decode_list(patched_u8("list", 15, 2))), Code::protocol);
}

TEST(WireBlock, MarkNamesAKeyAndItsReplyACode) {
  const auto mark = [](std::size_t key) {
    const Bytes bytes = run_of(key);
    const Code code = code_of(decode_mark(Made().fill(24).u64(1).run(key).bytes()));
    EXPECT_EQ(encoded(Mark{.incarnation = 1, .key = bytes}) > 0, code == Code::ok);
    return code;
  };
  EXPECT_EQ(mark(0), Code::protocol);
  EXPECT_EQ(mark(kKeyBytesMax), Code::ok);
  EXPECT_EQ(mark(kKeyBytesMax + 1), Code::too_large);
  EXPECT_EQ(code_of(decode_mark(patched_u8("mark", 21, 1))), Code::protocol);
  EXPECT_EQ(code_of(decode_mark_reply(patched_u8("mark_reply", 4, kCodeMax + 1))), Code::protocol);
  EXPECT_EQ(code_of(decode_mark_reply(patched_u8("mark_reply", 5, 1))), Code::protocol);
}

TEST(WireBlock, EveryBodyOfOneRecordFitsTheSmallBody) {
  const Bytes token = run_of(kTokenBytesMax), proof = run_of(kProofBytesMax);
  EXPECT_GT(encoded(Auth{token, proof}), 0);
  const Bytes crcs = run_of(4 * kUnitsMax);
  EXPECT_GT(encoded(GetBlock{.block_length = kBlockBytesMax, .crcs = crcs}), 0);
  EXPECT_LE(kSmallBodyMax, kBodyBytesBeforeHello);
}

TEST(WireBlock, CrcsBecomeBytesAndBack) {
  const std::array<std::uint32_t, 3> numbers{1, 0xdeadbeef, 0x80000000};
  Bytes bytes(12);
  store_crcs(numbers, bytes);
  EXPECT_EQ(bytes[4], std::byte{0xef});
  std::array<std::uint32_t, 3> again{};
  load_crcs(bytes, again);
  EXPECT_EQ(again, numbers);
  store_crcs({}, {});
  load_crcs({}, {});
}

}  // namespace
}  // namespace memkv::wire
