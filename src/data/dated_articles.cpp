#include "dated_articles.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <tuple>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

std::vector<std::string> cut_at_tabs(const std::string& line) {
  std::vector<std::string> fields;
  for (size_t begin = 0; begin <= line.size();) {
    const size_t end = std::min(line.find('\t', begin), line.size());
    fields.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return fields;
}

bool is_day(const std::string& text) {
  if (text.size() != 10 || !is_iso_8601(text)) return false;
  const std::chrono::year_month_day day{
      std::chrono::year(std::stoi(text.substr(0, 4))),
      std::chrono::month(static_cast<unsigned>(std::stoi(text.substr(5, 2)))),
      std::chrono::day(static_cast<unsigned>(std::stoi(text.substr(8, 2))))};
  return day.ok();
}

size_t column(const std::string& path, const std::vector<std::string>& names,
              const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end())
    throw DataError(concat(path,
                           ":1: expected tab-separated columns with \"id\" and "
                           "\"published\" among their names, \"",
                           name, "\" is missing"));
  return static_cast<size_t>(found - names.begin());
}

}  // namespace

PublicationDays::PublicationDays(const ReadContext& context) {
  size_t id_column = 0, day_column = 0, columns = 0;
  const auto read_line = [&](int64_t number, const std::string& line) {
    const std::vector<std::string> fields = cut_at_tabs(line);
    if (number == 1) {
      id_column = column(context.path, fields, "id");
      day_column = column(context.path, fields, "published");
      columns = std::max(id_column, day_column) + 1;
      return;
    }
    if (trimmed(line).empty()) return;
    guard_record(context, concat(context.path, ":", number), [&] {
      if (fields.size() < columns || fields[id_column].empty())
        throw BadRecord{concat("expected an id and a day, got ", fields.size(), " columns")};
      const std::string& day = fields[day_column];
      if (!is_day(day))
        throw BadRecord{concat("\"published\" must be a day such as 2015-03-01, got \"",
                               day.substr(0, 40), "\"")};
      const auto [place, added] = days_.emplace(fields[id_column], day);
      if (!added && place->second != day)
        throw BadRecord{concat("the id has another day, ", place->second, ", in a line above")};
    });
  };
  for_each_line(context.path, read_line, {}, kMaximumRecord);
  if (columns == 0) throw DataError(concat(context.path, ": the file is empty"));
}

const std::string& PublicationDays::of(const std::string& id) const {
  const auto found = days_.find(id);
  if (found == days_.end())
    throw BadRecord{concat("id ", id.substr(0, 60), " has no publication day in the companion")};
  return found->second;
}

ArticleSorter::ArticleSorter()
    : path_((std::filesystem::temp_directory_path() / "dsrsq-articles-XXXXXX").string()) {
  const int descriptor = ::mkstemp(path_.data());
  if (descriptor < 0) fail("be made");
  ::unlink(path_.c_str());  // it lives on while it is open, and no kill leaves it behind
  file_.reset(::fdopen(descriptor, "w+"));
  if (!file_) {
    ::close(descriptor);
    fail("be opened");
  }
}

void ArticleSorter::fail(const std::string& what) const {
  throw DataError(concat(path_, ": cannot ", what, ": ", std::strerror(errno),
                         "; TMPDIR chooses another folder for it"));
}

void ArticleSorter::add(const Article& article) {
  for (const std::string* text : {&article.text, &article.highlights}) {
    if (std::fwrite(text->data(), 1, text->size(), file_.get()) != text->size()) fail("be written");
  }
  Place place{article, bytes_, article.text.size(), article.highlights.size()};
  place.article.text = place.article.highlights = std::string();
  places_.push_back(std::move(place));
  bytes_ += static_cast<int64_t>(article.text.size() + article.highlights.size());
}

void ArticleSorter::for_each(const std::function<void(const Article& article)>& sink) {
  if (std::fflush(file_.get()) != 0) fail("be written");
  const auto key = [](const Place& place) {
    return std::tie(place.article.published, place.article.id, place.begin);
  };
  std::sort(places_.begin(), places_.end(),
            [&key](const Place& a, const Place& b) { return key(a) < key(b); });
  for (Place& place : places_) {
    Article& article = place.article;
    std::string both(place.text + place.highlights, '\0');
    if (::fseeko(file_.get(), place.begin, SEEK_SET) != 0 ||
        std::fread(both.data(), 1, both.size(), file_.get()) != both.size())
      fail("be read");
    article.text = both.substr(0, place.text);
    article.highlights = both.substr(place.text);
    sink(article);
    article.text = article.highlights = std::string();
  }
}

}  // namespace dsrsq
