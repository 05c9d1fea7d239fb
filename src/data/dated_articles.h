// Articles in the order of their publication. Private to src/data.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "record_reader.h"

namespace dsrsq {

struct Article {
  std::string id;
  std::string text;
  std::string highlights;
  int64_t line = 0;
  std::string published;  // YYYY-MM-DD; empty: not known
};

// Publication days by id, of a file with tab-separated columns "id" and "published" (others are
// passed over), which its first line names.
class PublicationDays {
 public:
  // Rows without a valid day, and ids with two days, are bad records. Throws DataError without the
  // columns.
  explicit PublicationDays(const ReadContext& context);
  const std::string& of(const std::string& id) const;  // throws BadRecord

 private:
  std::unordered_map<std::string, std::string> days_;
};

// Sorts articles by (day, id). Their texts wait in a temporary file (in TMPDIR, else /tmp), so that
// memory is about 200 bytes an article.
class ArticleSorter {
 public:
  ArticleSorter();
  void add(const Article& article);
  void for_each(const std::function<void(const Article& article)>& sink);

 private:
  struct Place {
    Article article;  // without texts
    int64_t begin = 0;
    size_t text = 0;        // bytes
    size_t highlights = 0;  // bytes, behind the text
  };
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  [[noreturn]] void fail(const std::string& what) const;

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::vector<Place> places_;
  int64_t bytes_ = 0;
};

}  // namespace dsrsq
