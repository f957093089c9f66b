// Every frame against its golden bytes, in both directions, and docs/formats/wire.md against them.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "support/wire_golden.h"

namespace memkv::wire {
namespace {

using test::Bytes;
using test::golden_frame;
using test::GoldenFrame;

constexpr std::uint64_t kNode = 0x0123456789abcdef;

std::span<const std::byte> bytes(std::string_view text) {
  return as_bytes_of(text);
}
std::string text(std::span<const std::byte> run) {
  return std::string(as_text_of(run));
}

constexpr std::string_view kOddKey("\0\xff", 2);

Namespace golden_space() {
  Namespace space;
  for (std::size_t i = 0; i < space.id.size(); ++i) space.id[i] = static_cast<std::byte>(0x10 + i);
  space.generation = 3;
  return space;
}

// The body in a frame of its own, as a sender makes it.
Bytes frame_of(Type type, std::uint64_t request, std::span<const std::byte> body,
               std::span<const std::byte> payload = {}) {
  Bytes frame(kHeaderBytes);
  encode_header({.type = type,
                 .request = request,
                 .body_bytes = static_cast<std::uint32_t>(body.size()),
                 .payload_bytes = static_cast<std::uint32_t>(payload.size()),
                 .body_crc = crc32c(body)},
                std::span(frame).first<kHeaderBytes>());
  frame.insert(frame.end(), body.begin(), body.end());
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

// Expects `body`, encoded, to be the golden frame.
template <typename Body>
GoldenFrame expect_encoded(std::string_view name, Type type, std::uint64_t request,
                           const Body& body, std::span<const std::byte> payload = {}) {
  GoldenFrame golden = golden_frame(name);
  std::array<std::byte, kSmallBodyMax> out;
  const std::size_t size = encode(body, out);
  EXPECT_EQ(frame_of(type, request, std::span(out).first(size), payload), golden.whole) << name;
  EXPECT_EQ(golden.header.type, type);
  EXPECT_EQ(golden.header.request, request);
  return golden;
}

template <typename Head, typename Record>
GoldenFrame expect_list(std::string_view name, Type type, std::uint64_t request, const Head& head,
                        const std::vector<Record>& records) {
  GoldenFrame golden = golden_frame(name);
  Bytes out(kBodyBytesMax);
  ListWriter<Head, Record> writer(out, head);
  for (const Record& record : records) EXPECT_TRUE(writer.add(record)) << name;
  EXPECT_EQ(writer.count(), records.size());
  EXPECT_EQ(frame_of(type, request, writer.body()), golden.whole) << name;
  return golden;
}

TEST(WireGolden, EveryFileIsAKnownFrameAndEveryTypeHasOne) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden/wire")) {
    files.insert(entry.path().stem().string());
  }
  std::set<std::string> known(test::kGoldenFrames.begin(), test::kGoldenFrames.end());
  known.insert({"example_put", "example_get"});
  EXPECT_EQ(files, known);

  std::set<std::uint8_t> types;
  for (const std::string_view name : test::kGoldenFrames) {
    types.insert(static_cast<std::uint8_t>(golden_frame(name).header.type));
  }
  EXPECT_EQ(types.size(), kTypeMax);
}

TEST(WireGolden, TypesHaveTheNamesOfThePage) {
  const std::string page = test::read_text("docs/formats/wire.md");
  for (unsigned number = 1; number <= kTypeMax; ++number) {
    const std::string name(type_name(static_cast<Type>(number)));
    EXPECT_NE(page.find(std::to_string(number) + " " + name + ", "), std::string::npos) << name;
  }
  EXPECT_EQ(type_name(Type{0}), "unknown");
  EXPECT_EQ(type_name(static_cast<Type>(kTypeMax + 1)), "unknown");
}

TEST(WireGolden, Hello) {
  const auto golden = expect_encoded("hello", Type::hello, 0,
                                     Hello{.session = 0x1122334455667788, .name = "vllm-0"});
  const Result<Hello> hello = decode_hello(golden.body);
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->version_min, 1);
  EXPECT_EQ(hello->version_max, 1);
  EXPECT_EQ(hello->transports, kTransportTcp);
  EXPECT_EQ(hello->session, 0x1122334455667788);
  EXPECT_EQ(hello->name, "vllm-0");
}

TEST(WireGolden, Challenge) {
  Challenge sent;
  for (std::size_t i = 0; i < sent.nonce.size(); ++i) sent.nonce[i] = static_cast<std::byte>(i);
  const auto golden = expect_encoded("challenge", Type::challenge, 0, sent);
  const Result<Challenge> challenge = decode_challenge(golden.body);
  ASSERT_TRUE(challenge);
  EXPECT_EQ(challenge->version, 1);
  EXPECT_EQ(challenge->auth, kAuthOpen);
  EXPECT_EQ(challenge->nonce, sent.nonce);
}

TEST(WireGolden, Auth) {
  const std::string_view proof = "\xaa\xbb\xcc";
  auto golden = expect_encoded("auth", Type::auth, 0, Auth{bytes("token-of-t1"), bytes(proof)});
  Result<Auth> auth = decode_auth(golden.body);
  ASSERT_TRUE(auth);
  EXPECT_EQ(text(auth->token), "token-of-t1");
  EXPECT_EQ(text(auth->proof), proof);

  golden = expect_encoded("auth_open", Type::auth, 0, Auth{});
  auth = decode_auth(golden.body);
  ASSERT_TRUE(auth);
  EXPECT_TRUE(auth->token.empty());
  EXPECT_TRUE(auth->proof.empty());
}

TEST(WireGolden, Welcome) {
  const auto golden = expect_encoded("welcome", Type::welcome, 0,
                                     Welcome{.node = kNode,
                                             .boot = 7,
                                             .epoch = 5,
                                             .requests_max = 256,
                                             .block_bytes_max = kBlockBytesMax,
                                             .put_bytes_granted_max = 128 * kMiB,
                                             .software = "memkvd 0.1.0"});
  const Result<Welcome> welcome = decode_welcome(golden.body);
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->node, kNode);
  EXPECT_EQ(welcome->boot, 7);
  EXPECT_EQ(welcome->epoch, 5);
  EXPECT_EQ(welcome->transports, kTransportTcp);
  EXPECT_EQ(welcome->batch_max, 4096);
  EXPECT_EQ(welcome->items_max, 16384);
  EXPECT_EQ(welcome->requests_max, 256);
  EXPECT_EQ(welcome->block_bytes_max, 64 * kMiB);
  EXPECT_EQ(welcome->put_bytes_granted_max, 128 * kMiB);
  EXPECT_EQ(welcome->software, "memkvd 0.1.0");
}

TEST(WireGolden, Refuse) {
  const std::string_view sentence = "no room for another 256 requests; wait for answers";
  auto golden = expect_encoded("refuse", Type::refuse, 9, Refuse{Code::busy, sentence});
  Result<Refuse> refused = decode_refuse(golden.body);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->code, Code::busy);
  EXPECT_EQ(refused->text, sentence);

  golden = expect_encoded("refuse_bare", Type::refuse, 0, Refuse{Code::too_large, {}});
  refused = decode_refuse(golden.body);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->code, Code::too_large);
  EXPECT_EQ(refused->text, "");
}

TEST(WireGolden, Put) {
  const PutItem first{.length = 5,
                      .traits = {.group = {0x1111111111111111, 0x2222222222222222},
                                 .depth = 2,
                                 .recompute_cost = 900,
                                 .age_s = 3600},
                      .key = bytes("alpha")};
  const PutItem second{.length = kBlockBytesMax,
                       .traits = {.group = {0x3333333333333333, 0x4444444444444444}},
                       .key = bytes(kOddKey)};
  const auto golden =
      expect_list<Namespace, PutItem>("put", Type::put, 2, golden_space(), {first, second});
  Result<PutReader> reader = PutReader::open(golden.body);
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->head(), golden_space());
  ASSERT_EQ(reader->count(), 2);
  for (const PutItem& sent : {first, second}) {
    const std::optional<PutItem> item = reader->next();
    ASSERT_TRUE(item);
    EXPECT_EQ(item->length, sent.length);
    EXPECT_EQ(item->traits.group, sent.traits.group);
    EXPECT_EQ(item->traits.depth, sent.traits.depth);
    EXPECT_EQ(item->traits.recompute_cost, sent.traits.recompute_cost);
    EXPECT_EQ(item->traits.age_s, sent.traits.age_s);
    EXPECT_EQ(text(item->key), text(sent.key));
  }
  EXPECT_FALSE(reader->next());
}

TEST(WireGolden, GrantAndCommit) {
  const auto granted = expect_encoded("grant", Type::grant, 2, Grant{1});
  EXPECT_EQ(decode_grant(granted.body)->item, 1);

  std::array<std::byte, 4> crcs;
  store_crcs(std::array{0x9a71bb4cu}, crcs);
  const auto golden = expect_encoded("commit", Type::commit, 2, Commit{0, crcs});
  const Result<Commit> commit = decode_commit(golden.body);
  ASSERT_TRUE(commit);
  EXPECT_EQ(commit->item, 0);
  std::array<std::uint32_t, 1> numbers{};
  load_crcs(commit->crcs, numbers);
  EXPECT_EQ(numbers[0], 0x9a71bb4c);
}

TEST(WireGolden, PutDone) {
  auto golden = expect_encoded("put_done", Type::put_done, 2,
                               PutDone{.epoch = 5, .item = 0, .code = Code::ok, .incarnation = 77});
  Result<PutDone> done = decode_put_done(golden.body);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->epoch, 5);
  EXPECT_EQ(done->item, 0);
  EXPECT_EQ(done->code, Code::ok);
  EXPECT_EQ(done->incarnation, 77);

  golden = expect_encoded("put_done_exists", Type::put_done, 2,
                          PutDone{.epoch = 5, .item = 4095, .code = Code::exists});
  done = decode_put_done(golden.body);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->item, 4095);
  EXPECT_EQ(done->code, Code::exists);
  EXPECT_EQ(done->incarnation, 0);
}

TEST(WireGolden, Get) {
  const GetItem first{.offset = 0, .length = 5, .key = bytes("alpha")};
  const GetItem second{.offset = 65536, .length = kBlockBytesMax - 65536, .key = bytes(kOddKey)};
  const auto golden =
      expect_list<Namespace, GetItem>("get", Type::get, 3, golden_space(), {first, second});
  Result<GetReader> reader = GetReader::open(golden.body);
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->head(), golden_space());
  ASSERT_EQ(reader->count(), 2);
  for (const GetItem& sent : {first, second}) {
    const std::optional<GetItem> item = reader->next();
    ASSERT_TRUE(item);
    EXPECT_EQ(item->offset, sent.offset);
    EXPECT_EQ(item->length, sent.length);
    EXPECT_EQ(text(item->key), text(sent.key));
  }
  EXPECT_FALSE(reader->next());
}

TEST(WireGolden, GetBlock) {
  std::array<std::byte, 8> crcs;
  store_crcs(std::array{0xdeadbeefu, 1u}, crcs);
  const auto golden = expect_encoded("get_block", Type::get_block, 3,
                                     GetBlock{.epoch = 5,
                                              .item = 1,
                                              .code = Code::ok,
                                              .copied = 1,
                                              .incarnation = 77,
                                              .block_length = 200'000,
                                              .first_unit = 2,
                                              .crcs = crcs});
  const Result<GetBlock> block = decode_get_block(golden.body);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->epoch, 5);
  EXPECT_EQ(block->item, 1);
  EXPECT_EQ(block->code, Code::ok);
  EXPECT_EQ(block->copied, 1);
  EXPECT_EQ(block->incarnation, 77);
  EXPECT_EQ(block->block_length, 200'000);
  EXPECT_EQ(block->first_unit, 2);
  std::array<std::uint32_t, 2> numbers{};
  ASSERT_EQ(block->crcs.size(), sizeof numbers);
  load_crcs(block->crcs, numbers);
  EXPECT_EQ(numbers, (std::array{0xdeadbeefu, 1u}));
}

TEST(WireGolden, GetBlockThatDoesNotCome) {
  const GetBlock missing{.epoch = 5, .item = 0, .code = Code::not_found};
  auto golden = expect_encoded("get_block_missing", Type::get_block, 3, missing);
  Result<GetBlock> block = decode_get_block(golden.body);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->code, Code::not_found);
  EXPECT_TRUE(block->crcs.empty());

  const GetBlock outside{.epoch = 5, .item = 0, .code = Code::invalid, .block_length = 4};
  golden = expect_encoded("get_block_short", Type::get_block, 3, outside);
  block = decode_get_block(golden.body);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->code, Code::invalid);
  EXPECT_EQ(block->block_length, 4);
}

TEST(WireGolden, Data) {
  const std::string_view payload = "\x01\x02\x03\x04\x05";
  const auto golden = expect_encoded("data", Type::data, 3, Data{1, 131072}, bytes(payload));
  EXPECT_EQ(golden.body.size(), kDataBodyBytes);
  EXPECT_EQ(golden.header.payload_bytes, 5);
  const Result<Data> data = decode_data(golden.body);
  ASSERT_TRUE(data);
  EXPECT_EQ(data->item, 1);
  EXPECT_EQ(data->offset, 131072);
}

TEST(WireGolden, CancelAndReport) {
  auto golden = expect_encoded("cancel", Type::cancel, 3, Cancel{1});
  EXPECT_EQ(decode_cancel(golden.body)->item, 1);
  golden = expect_encoded("cancel_all", Type::cancel, 3, Cancel{});
  EXPECT_EQ(decode_cancel(golden.body)->item, kAllItems);

  golden = expect_encoded("report", Type::report, 3, Report{golden_space(), 77, bytes("k")});
  const Result<Report> report = decode_report(golden.body);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->space, golden_space());
  EXPECT_EQ(report->incarnation, 77);
  EXPECT_EQ(text(report->key), "k");
}

TEST(WireGolden, MatchAndDrop) {
  const std::vector<Key> keys{{bytes("alpha")}, {bytes(kOddKey)}, {bytes("ccc")}};
  auto golden =
      expect_list<MatchHead, Key>("match", Type::match, 4, MatchHead{golden_space(), 250}, keys);
  Result<MatchReader> match = MatchReader::open(golden.body);
  ASSERT_TRUE(match);
  EXPECT_EQ(match->head().space, golden_space());
  EXPECT_EQ(match->head().hold_ms, 250);
  for (const Key& key : keys) EXPECT_EQ(text(match->next()->bytes), text(key.bytes));
  EXPECT_FALSE(match->next());

  golden = expect_list<Namespace, Key>("drop", Type::drop, 5, golden_space(), keys);
  Result<DropReader> drop = DropReader::open(golden.body);
  ASSERT_TRUE(drop);
  EXPECT_EQ(drop->head(), golden_space());
  for (const Key& key : keys) EXPECT_EQ(text(drop->next()->bytes), text(key.bytes));
  EXPECT_FALSE(drop->next());
}

TEST(WireGolden, MatchReply) {
  const std::vector<Found> answers{
      {Where::absent, 0, 0}, {Where::flash, 0, 5}, {Where::dram, 1, kBlockBytesMax}};
  const auto golden = expect_list<MatchReplyHead, Found>("match_reply", Type::match_reply, 4,
                                                         MatchReplyHead{5, 1500}, answers);
  Result<MatchReplyReader> reply = MatchReplyReader::open(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->head().epoch, 5);
  EXPECT_EQ(reply->head().queue_delay_us, 1500);
  for (const Found& answer : answers) {
    const std::optional<Found> found = reply->next();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->where, answer.where);
    EXPECT_EQ(found->copied, answer.copied);
    EXPECT_EQ(found->length, answer.length);
  }
  EXPECT_FALSE(reply->next());
}

TEST(WireGolden, DropReply) {
  const std::vector<DropCode> codes{{Code::ok}, {Code::not_found}, {Code::busy}};
  const auto golden = expect_list<DropReplyHead, DropCode>("drop_reply", Type::drop_reply, 5,
                                                           DropReplyHead{5}, codes);
  Result<DropReplyReader> reply = DropReplyReader::open(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->head().epoch, 5);
  for (const DropCode& code : codes) EXPECT_EQ(reply->next()->code, code.code);
  EXPECT_FALSE(reply->next());
}

TEST(WireGolden, MapReply) {
  const std::vector<MapNode> nodes{
      {kNode, 100, {100, 70, 0}, node_id_of("rack-7"), 0, "10.0.0.7:7440"},
      {2, 0, {50, 50, 0}, 0, 1, "[fd00::1]:7440"}};
  auto golden = expect_list<MapHead, MapNode>("map_reply", Type::map_reply, 7, MapHead{5}, nodes);
  Result<MapReplyReader> reply = MapReplyReader::open(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->head().epoch, 5);
  for (const MapNode& sent : nodes) {
    const std::optional<MapNode> node = reply->next();
    ASSERT_TRUE(node);
    EXPECT_EQ(node->node, sent.node);
    EXPECT_EQ(node->weight, sent.weight);
    EXPECT_EQ(node->former_weights, sent.former_weights);
    EXPECT_EQ(node->domain, sent.domain);
    EXPECT_EQ(node->draining, sent.draining);
    EXPECT_EQ(node->address, sent.address);
  }
  EXPECT_FALSE(reply->next());

  golden = expect_list<MapHead, MapNode>("map_reply_empty", Type::map_reply, 7, MapHead{0}, {});
  reply = MapReplyReader::open(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->count(), 0);
}

TEST(WireGolden, ListAndMark) {
  const List asked{.cursor = 0x100000002,
                   .count = 1024,
                   .reads_min = 8,
                   .mark_not = 1,
                   .copies_min = 2,
                   .dram = 1};
  auto golden = expect_encoded("list", Type::list, 8, asked);
  const Result<List> list = decode_list(golden.body);
  ASSERT_TRUE(list);
  EXPECT_EQ(list->cursor, asked.cursor);
  EXPECT_EQ(list->count, asked.count);
  EXPECT_EQ(list->reads_min, asked.reads_min);
  EXPECT_EQ(list->mark_not, asked.mark_not);
  EXPECT_EQ(list->copies_min, asked.copies_min);
  EXPECT_EQ(list->dram, asked.dram);

  const auto key = bytes("k");
  golden = expect_encoded("mark", Type::mark, 9,
                          Mark{.space = golden_space(), .mark = 1, .incarnation = 77, .key = key});
  const Result<Mark> mark = decode_mark(golden.body);
  ASSERT_TRUE(mark);
  EXPECT_EQ(mark->space, golden_space());
  EXPECT_EQ(mark->mark, kMarkCopied);
  EXPECT_EQ(mark->incarnation, 77);
  EXPECT_EQ(text(mark->key), "k");

  golden = expect_encoded("mark_reply", Type::mark_reply, 9,
                          MarkReply{.epoch = 5, .code = Code::not_found});
  const Result<MarkReply> reply = decode_mark_reply(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->epoch, 5);
  EXPECT_EQ(reply->code, Code::not_found);
}

TEST(WireGolden, ListReply) {
  const BlockTraits traits{.group = {.high = 0x1111111111111111, .low = 0x2222222222222222},
                           .depth = 2,
                           .recompute_cost = 900,
                           .age_s = 3600};
  const auto first = bytes("alpha");
  const Bytes second{std::byte{0}, std::byte{0xff}};
  const std::vector<Listed> blocks{
      {golden_space(), 77, 5, traits, 9, 1, first},
      {golden_space(), 78, kBlockBytesMax, {.group = traits.group}, 0, 0, second}};
  auto golden = expect_list<ListReplyHead, Listed>("list_reply", Type::list_reply, 8,
                                                   ListReplyHead{5, 0x100000003}, blocks);
  Result<ListReplyReader> reply = ListReplyReader::open(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->head().epoch, 5);
  EXPECT_EQ(reply->head().next, 0x100000003);
  for (const Listed& sent : blocks) {
    const std::optional<Listed> block = reply->next();
    ASSERT_TRUE(block);
    EXPECT_EQ(block->space, sent.space);
    EXPECT_EQ(block->incarnation, sent.incarnation);
    EXPECT_EQ(block->length, sent.length);
    EXPECT_EQ(block->traits.group, sent.traits.group);
    EXPECT_EQ(block->traits.depth, sent.traits.depth);
    EXPECT_EQ(block->traits.recompute_cost, sent.traits.recompute_cost);
    EXPECT_EQ(block->traits.age_s, sent.traits.age_s);
    EXPECT_EQ(block->reads, sent.reads);
    EXPECT_EQ(block->mark, sent.mark);
    EXPECT_EQ(text(block->key), text(sent.key));
  }
  EXPECT_FALSE(reply->next());

  golden = expect_list<ListReplyHead, Listed>("list_reply_empty", Type::list_reply, 8,
                                              ListReplyHead{5, 0}, {});
  reply = ListReplyReader::open(golden.body);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->count(), 0);
}

TEST(WireGolden, FramesWithoutABodyOfFields) {
  EXPECT_EQ(frame_of(Type::stat, 6, {}), golden_frame("stat").whole);
  EXPECT_EQ(frame_of(Type::map, 7, {}), golden_frame("map").whole);
  EXPECT_EQ(frame_of(Type::stat_reply, 6, bytes("boot 7\nblocks 12\n")),
            golden_frame("stat_reply").whole);
}

TEST(WireGolden, ThePageShowsTheExamplesAsTheyAre) {
  const std::string page = test::read_text("docs/formats/wire.md");
  for (const std::string_view name : {"example_put", "example_get"}) {
    const std::string file = test::golden_text(name);
    const std::string frames = file.substr(file.find("\n\n") + 2);
    EXPECT_NE(page.find("```hex\n" + frames + "```"), std::string::npos) << name;
  }
}

TEST(WireGolden, TheExampleIsATrueConversation) {
  Bytes put = test::bytes_of_hex(test::golden_text("example_put"));
  const GoldenFrame asked = test::take_frame(put);
  Result<PutReader> reader = PutReader::open(asked.body);
  ASSERT_TRUE(reader);
  const std::optional<PutItem> item = reader->next();
  ASSERT_TRUE(item);
  EXPECT_EQ(text(item->key), "k1");
  EXPECT_EQ(item->traits.group, group_fingerprint(reader->head().id, item->key));
  EXPECT_EQ(decode_grant(test::take_frame(put).body)->item, 0);
  const GoldenFrame data = test::take_frame(put);
  EXPECT_EQ(text(data.payload), "hello");
  EXPECT_EQ(item->length, data.payload.size());
  const GoldenFrame commit = test::take_frame(put);
  std::array<std::uint32_t, 1> crc{};
  load_crcs(decode_commit(commit.body)->crcs, crc);
  EXPECT_EQ(crc[0], crc32c(data.payload));
  const GoldenFrame done = test::take_frame(put);
  EXPECT_TRUE(put.empty());

  Bytes get = test::bytes_of_hex(test::golden_text("example_get"));
  EXPECT_TRUE(GetReader::open(test::take_frame(get).body));
  const GoldenFrame found = test::take_frame(get);
  const Result<GetBlock> block = decode_get_block(found.body);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->incarnation, decode_put_done(done.body)->incarnation);
  EXPECT_EQ(block->block_length, 5);
  EXPECT_EQ(text(test::take_frame(get).payload), "hello");
  EXPECT_TRUE(get.empty());
}

}  // namespace
}  // namespace memkv::wire
