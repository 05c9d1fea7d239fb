// dsrsq-generate --stream as a user runs it: pipes that are slow, kills and signals, damaged files.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "apps/program.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::flip_bit;
using ::testing::HasSubstr;
using testing::Program;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;
using Arguments = std::vector<std::string>;
using Lines = std::vector<std::string>;

const TinyProject& project() { return TinyProject::get(); }

const std::string& trained(const std::string& seed = "0") {
  static std::map<std::string, std::string> folders;
  auto& folder = folders[seed];
  if (!folder.empty()) return folder;
  folder = project().run_folder("stream-" + seed);
  auto result = run_program(project().train("stream-" + seed, {"--seed", seed}),
                            project().folder() + "/output-stream-" + seed);
  if (result.code != 0) throw std::runtime_error("training failed: " + result.err);
  return folder;
}

// Lines [begin, end) of a text that has no end; every 20th asks.
std::string text(int begin, int end) {
  std::string all;
  for (int i = begin; i < end; ++i) {
    if (i % 20 == 19) all += "? n" + std::to_string(i % 7) + "\n";
    all += "line " + std::to_string(i * 7919 % 1000) + " of " + std::to_string(i) + ".\n";
  }
  return all;
}

Lines lines_of(const std::string& bytes) {
  Lines lines;
  std::istringstream in(bytes);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

class GenerateStream : public ::testing::Test {
 protected:
  GenerateStream() {
    static int count = 0;
    folder_ =
        project().folder() + "/follow-" + std::to_string(getpid()) + "-" + std::to_string(count++);
    fs::create_directories(folder_);
  }
  ~GenerateStream() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string file(const std::string& name, const std::string& bytes) const {
    write_bytes(path(name), bytes);
    return path(name);
  }
  std::string pipe(const std::string& name) const {
    if (::mkfifo(path(name).c_str(), 0600) != 0) throw std::runtime_error("no pipe " + path(name));
    return path(name);
  }
  Arguments follow(const Arguments& more = {}, const std::string& run = trained()) const {
    Arguments all{"dsrsq-generate", "--stream", "--model",          run,   "--threads",   "1",
                  "--max-tokens",   "3",        "--position-range", "512", "--log-level", "info"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // Standard output, after checking that it went well.
  std::string answers(const Arguments& more, const std::string& bytes) const {
    auto input = file("input", bytes);
    auto result = run_program(follow(more), path("out"), input);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }
  std::vector<nlohmann::json> metrics(const std::string& event,
                                      const std::string& name = "metrics") const {
    std::vector<nlohmann::json> found;
    for (const auto& line : lines_of(read_bytes(path(name))))
      if (auto value = nlohmann::json::parse(line); value.at("event") == event)
        found.push_back(value);
    return found;
  }

  // What each answer was, with its probability, which tells more of the memory than a few tokens.
  Lines answers_told(const std::string& name) const {
    Lines found;
    for (const auto& line : metrics("answer", name))
      found.push_back(line.at("tokens").dump() + " " + line.at("question").dump() + " " +
                      line.at("answer").dump() + " " + line.at("probability").dump());
    return found;
  }

  std::string folder_;
};

// A named pipe's writing end. Opened before the program, which would wait for it; not inherited.
class Writer {
 public:
  explicit Writer(const std::string& path)
      : descriptor_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {}
  ~Writer() { close(); }
  void write(const std::string& bytes) const {
    for (size_t done = 0; done < bytes.size();) {
      auto put = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
      if (put < 0) throw std::runtime_error("the program has closed its input");
      done += size_t(put);
    }
  }
  // As much as is taken until nothing more is for three seconds; -> bytes.
  size_t write_until_full(const std::string& bytes) const {
    ::fcntl(descriptor_, F_SETFL, O_NONBLOCK);
    size_t done = 0;
    for (int idle = 0; idle < 300 && done < bytes.size();) {
      auto put = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
      idle = put > 0 ? 0 : idle + 1;
      if (put > 0) done += size_t(put);
      if (put <= 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ::fcntl(descriptor_, F_SETFL, 0);
    return done;
  }
  int get() const { return descriptor_; }
  void close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

 private:
  int descriptor_;
};

// Until so many answers stand in the file, or the program has ended.
void wait_for_answers(Program& program, const std::string& file, size_t count) {
  while (lines_of(read_bytes(file)).size() < count && program.running())
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

int64_t own_memory(int process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string word; status >> word;)
    if (int64_t kilobytes = 0; word == "RssAnon:" && status >> kilobytes) return kilobytes << 10;
  throw std::runtime_error("the process has ended");
}

TEST_F(GenerateStream, AnswersTheLinesThatAsk) {
  auto bytes = text(0, 400);
  auto out = answers({"--metrics", path("metrics"), "--status-every", "500"}, bytes);
  EXPECT_EQ(lines_of(out).size(), 20u);
  auto asked = metrics("answer");
  ASSERT_EQ(asked.size(), 20u);
  EXPECT_EQ(asked[0].at("question"), "n5");
  for (size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(asked[i].at("answer"), lines_of(out)[i]);
  auto status = metrics("status");
  ASSERT_GT(status.size(), 8u);
  for (const auto& line : status) {
    EXPECT_TRUE(line.at("finite").get<bool>());
    EXPECT_EQ(line.at("state_bytes"), status[0].at("state_bytes"));
    EXPECT_GT(line.at("rss_anon_bytes"), 0);
    EXPECT_GT(line.at("age_oldest"), 0);
    EXPECT_GT(line.at("latent_attention"), 0);
  }
  EXPECT_EQ(status.back().at("input_bytes"), bytes.size());
  // Without a newline at the end, with one that Windows writes, by another marker.
  EXPECT_EQ(lines_of(answers({}, "text\n? n")).size(), 1u);
  EXPECT_EQ(answers({}, "text\n? n\r\n"), answers({}, "text\n? n"));
  EXPECT_EQ(lines_of(answers({"--marker", "ASK "}, "? n\nASK n\n ASK n\n")).size(), 1u);
  EXPECT_EQ(answers({}, ""), "");
}

// What was said does not depend on how the bytes came.
TEST_F(GenerateStream, PiecesOfAPipeAreLines) {
  auto bytes = text(0, 100) + "zwei \xc3\xa4\n? \xc3\xa4\n";
  auto expected = answers({}, bytes);
  auto input = pipe("pipe");
  Writer writer(input);
  Program program(follow(), path("piped"), input);
  for (size_t begin = 0; begin < bytes.size(); begin += 37) writer.write(bytes.substr(begin, 37));
  writer.close();
  auto result = program.wait();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, expected);
}

TEST_F(GenerateStream, ALineWithoutEndComesInPieces) {
  std::string endless;
  for (int i = 0; i < 35000; ++i) endless += "\xc3\xa4";  // two bytes
  EXPECT_EQ(lines_of(answers({"--metrics", path("metrics"), "--status-every", "100000"},
                             endless + "\n? n\n"))
                .size(),
            1u);
  EXPECT_EQ(metrics("status").back().at("tokens"), 2 * 35000 + 1);
}

TEST_F(GenerateStream, KilledAndResumedItAnswersTheSame) {
  for (bool store : {false, true}) {
    SCOPED_TRACE(store);
    auto whole = text(0, 600);
    auto history = [&](const std::string& name) {
      return store ? Arguments{"--store", path(name)} : Arguments{};
    };
    auto number = std::string(store ? "-2" : "-1");
    auto straight = history("straight");
    for (const auto& more : {std::string("--metrics"), path("straight-told" + number)})
      straight.push_back(more);
    answers(straight, whole);
    auto expected = answers_told("straight-told" + number);
    ASSERT_EQ(expected.size(), 30u);
    EXPECT_EQ(std::set<std::string>(expected.begin(), expected.end()).size(), 30u);
    auto input = pipe("pipe" + number);
    auto snapshot = path("snapshot" + number);
    Arguments arguments{"--snapshot", snapshot};
    for (const auto& more : history("killed")) arguments.push_back(more);
    {
      Writer writer(input);
      Program program(follow(arguments), path("killed-out"), input);
      writer.write(text(0, 250));
      wait_for_answers(program, path("killed-out/stdout"), 12);
      program.send(SIGUSR1);
      ASSERT_TRUE(program.wait_for_file(snapshot + "/manifest.json"));
      writer.write(text(250, 400));
      program.send(SIGKILL);
      EXPECT_EQ(program.wait().signal, SIGKILL);
    }
    for (const auto& more :
         {std::string("--replay"), std::string("--metrics"), path("resumed-told" + number)})
      arguments.push_back(more);
    auto again = run_program(follow(arguments), path("resumed-out"), file("input", whole));
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_THAT(again.err, HasSubstr("resumed at"));
    auto later = answers_told("resumed-told" + number);
    EXPECT_EQ(lines_of(again.out).size(), later.size());
    ASSERT_GT(later.size(), 17u);  // 12 questions at most were answered before the snapshot
    ASSERT_LT(later.size(), 31u);
    EXPECT_EQ(later, Lines(expected.end() - int64_t(later.size()), expected.end()));
  }
}

TEST_F(GenerateStream, ASignalSavesAndEnds) {
  answers({"--metrics", path("straight-told")}, text(0, 300));
  auto expected = answers_told("straight-told");
  auto input = pipe("pipe");
  Arguments arguments{"--snapshot", path("snapshot"), "--metrics", path("told")};
  {
    Writer writer(input);
    Program program(follow(arguments), path("stopped"), input);
    writer.write(text(0, 160));
    wait_for_answers(program, path("stopped/stdout"), 8);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // it waits for more
    program.send(SIGTERM);
    auto result = program.wait();
    EXPECT_EQ(result.code, 75) << result.err;
  }
  // Where it stopped, the rest goes on.
  auto rest = run_program(follow(arguments), path("rest"), file("input", text(160, 300)));
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(answers_told("told"), expected);
}

// Nobody reads the answers: the program waits, takes no more input and no more memory.
TEST_F(GenerateStream, ASlowReaderHoldsTheWriterUp) {
  std::string questions;
  for (int i = 0; i < 8000; ++i) questions += "? n\n";
  auto input = pipe("pipe");
  fs::create_directories(path("slow"));
  auto output = pipe("slow/stdout");
  const int reader = ::open(output.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  ::fcntl(reader, F_SETFL, 0);
  Writer writer(input);
  Program program(follow(), path("slow"), input);
  ::fcntl(reader, F_SETPIPE_SZ, 4096);
  ::fcntl(writer.get(), F_SETPIPE_SZ, 4096);
  writer.write(text(0, 60));
  auto taken = writer.write_until_full(questions);
  EXPECT_LT(taken, questions.size()) << "a queue of what could not be answered yet";
  auto before = own_memory(program.pid());
  EXPECT_EQ(writer.write_until_full(questions.substr(taken)), 0u);
  EXPECT_LT(own_memory(program.pid()) - before, 1 << 20);
  // As it is read, it goes on.
  writer.close();
  size_t lines = 0;
  char bytes[4096];
  for (ssize_t got; (got = ::read(reader, bytes, sizeof(bytes))) > 0;)
    lines += size_t(std::count(bytes, bytes + got, '\n'));
  ::close(reader);
  EXPECT_EQ(program.wait().code, 0);
  EXPECT_EQ(lines, 3 + taken / 4);
}

TEST_F(GenerateStream, AReaderThatIsGoneIsAnError) {
  auto input = pipe("pipe");
  fs::create_directories(path("gone"));
  auto output = pipe("gone/stdout");
  const int reader = ::open(output.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  Writer writer(input);
  Program program(follow(), path("gone"), input);
  ::close(reader);
  writer.write(text(0, 40));
  writer.close();
  auto result = program.wait();
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_THAT(result.err, HasSubstr("standard output: cannot be written"));
}

TEST_F(GenerateStream, TheStoreIsSearched) {
  answers({"--store", path("store"), "--metrics", path("metrics"), "--budget", "12"}, text(0, 200));
  auto asked = metrics("answer");
  ASSERT_EQ(asked.size(), 10u);
  for (const auto& line : asked) {
    EXPECT_EQ(line.at("brought_back").size(), 12u);
    EXPECT_GT(line.at("scan_seconds"), 0);
  }
  EXPECT_GT(asked.back().at("scanned_tokens"), asked.front().at("scanned_tokens"));
  EXPECT_EQ(asked.back().at("scanned_bytes"),
            asked.back().at("scanned_tokens").get<int64_t>() * 16 * 4);
  answers({"--metrics", path("without")}, text(0, 200));
  auto without = metrics("answer", "without");
  for (size_t i = 0; i < asked.size(); ++i)
    EXPECT_NE(asked[i].at("probability"), without.at(i).at("probability"))
        << "what comes back is read";
}

TEST_F(GenerateStream, DamagedFilesAreToldAndRefusedOrCut) {
  Arguments both{"--store", path("store"), "--snapshot", path("snapshot")};
  answers(both, text(0, 200));
  auto whole = read_bytes(path("store"));
  // A cut-off tail: what is whole is used, the loss is told.
  write_bytes(path("store"), whole.substr(0, whole.size() - 100));
  auto cut = run_program(follow(both), path("cut"), file("input", text(200, 260)));
  EXPECT_EQ(cut.code, 0) << cut.err;
  EXPECT_THAT(cut.err, AllOf(HasSubstr("it is cut off"), HasSubstr("are lost"),
                             HasSubstr("cannot be searched")));
  flip_bit(path("store"), 4096 + 500);
  auto flipped = run_program(follow({"--store", path("store")}), path("cut"), file("input", "x\n"));
  EXPECT_EQ(flipped.code, 0) << flipped.err;
  EXPECT_THAT(flipped.err, HasSubstr("block 0: its checksum does not agree"));
  flip_bit(path("store"), 30);
  auto header = run_program(follow({"--store", path("store")}), path("cut"), file("input", "x\n"));
  EXPECT_EQ(header.code, 4) << header.err;
  for (const char* name : {"state.safetensors", "state.json", "manifest.json"}) {
    auto bytes = read_bytes(path("snapshot") + "/" + name);
    flip_bit(path("snapshot") + "/" + name, bytes.size() / 2);
    auto damaged =
        run_program(follow({"--snapshot", path("snapshot")}), path("cut"), file("input", "x\n"));
    EXPECT_EQ(damaged.code, 4) << damaged.err;
    EXPECT_THAT(damaged.err, HasSubstr(path("snapshot")));
    write_bytes(path("snapshot") + "/" + name, bytes);
  }
}

TEST_F(GenerateStream, OfOtherWeightsIsRefused) {
  answers({"--store", path("store"), "--snapshot", path("snapshot")}, text(0, 60));
  auto store = run_program(follow({"--store", path("store")}, trained("1")), path("out"));
  EXPECT_EQ(store.code, 4) << store.err;
  EXPECT_THAT(store.err, HasSubstr("was made with other weights"));
  auto snapshot = run_program(follow({"--snapshot", path("snapshot")}, trained("1")), path("out"));
  EXPECT_EQ(snapshot.code, 4) << snapshot.err;
  EXPECT_THAT(snapshot.err, HasSubstr("made with other weights"));
}

TEST_F(GenerateStream, AQuestionThatIsTooLongEndsNothing) {
  auto result = run_program(follow(), path("out"),
                            file("input", text(0, 19) + "? " + std::string(600, 'x') + "\n? n\n"));
  EXPECT_EQ(result.code, 0) << result.err;
  auto lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "");
  EXPECT_NE(lines[1], "");
  EXPECT_THAT(result.err, HasSubstr("raise position_range"));
}

TEST_F(GenerateStream, SaysWhatIsWrongWithTheCommand) {
  auto refused = [&](const Arguments& more) {
    auto result = run_program(follow(more), path("out"));
    EXPECT_EQ(result.code, 2) << result.err;
    return result.err;
  };
  EXPECT_THAT(refused({"--question", "n"}), HasSubstr("--stream: expected text and questions"));
  EXPECT_THAT(refused({"--set", "rckv.store=disk"}), HasSubstr("expected --store FILE"));
  auto short_range = follow();
  std::replace(short_range.begin(), short_range.end(), std::string("512"), std::string("20"));
  auto range = run_program(short_range, path("out"));
  EXPECT_EQ(range.code, 2) << range.err;
  EXPECT_THAT(range.err, HasSubstr("position_range: expected at least"));
  auto replay = run_program(follow({"--snapshot", path("snapshot")}), path("out"),
                            file("input", text(0, 60)));
  EXPECT_EQ(replay.code, 0) << replay.err;
  auto less = run_program(follow({"--snapshot", path("snapshot"), "--replay"}), path("out"),
                          file("input", text(0, 20)));
  EXPECT_EQ(less.code, 3) << less.err;
  EXPECT_THAT(less.err, HasSubstr("expected the text that the snapshot has read"));
}

}  // namespace
}  // namespace dsrsq
