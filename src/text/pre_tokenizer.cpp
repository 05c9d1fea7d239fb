#include "pre_tokenizer.h"

#include <algorithm>

#include "utf8.h"

namespace dsrsq::text {
namespace {

struct Piece {
  Match range;
  bool matched;
};

// The whole text as alternating gaps and matches; gaps are never empty, matches may be (as
// Oniguruma reports them).
std::vector<Piece> find_pieces(const SplitStep& step, std::string_view text, Searcher& searcher) {
  std::vector<Piece> pieces;
  size_t covered = 0;
  size_t from = 0;
  std::optional<size_t> last_end;
  while (from <= text.size()) {
    const std::optional<Match> match = searcher.find(step.pattern, text, from);
    if (!match) break;
    if (match->begin == match->end &&
        last_end == match->end) {  // an empty match right after a match does not count
      from += from < text.size() ? decode_utf8(text, from).length : 1;
      continue;
    }
    if (covered != match->begin) pieces.push_back({{covered, match->begin}, step.invert});
    pieces.push_back({*match, !step.invert});
    covered = from = match->end;
    last_end = match->end;
  }
  if (covered != text.size()) pieces.push_back({{covered, text.size()}, step.invert});
  return pieces;
}

std::vector<Match> join_contiguous(const std::vector<Piece>& pieces) {
  std::vector<Match> out;
  bool previous = false;
  for (const Piece& piece : pieces) {
    if (piece.matched == previous && !out.empty()) {
      out.back().end = piece.range.end;
    } else {
      out.push_back(piece.range);
    }
    previous = piece.matched;
  }
  return out;
}

// A match joins the piece in front of it, unless that is itself a match.
std::vector<Match> merge_with_previous(const std::vector<Piece>& pieces) {
  std::vector<Match> out;
  bool previous = false;
  for (const Piece& piece : pieces) {
    if (piece.matched && !previous && !out.empty()) {
      out.back().end = piece.range.end;
    } else {
      out.push_back(piece.range);
    }
    previous = piece.matched;
  }
  return out;
}

std::vector<Match> merge_with_next(const std::vector<Piece>& pieces) {
  std::vector<Match> out;
  bool previous = false;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    if (piece->matched && !previous && !out.empty()) {
      out.back().begin = piece->range.begin;
    } else {
      out.push_back(piece->range);
    }
    previous = piece->matched;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Match> apply_behavior(SplitBehavior behavior, const std::vector<Piece>& pieces) {
  switch (behavior) {
    case SplitBehavior::kContiguous:
      return join_contiguous(pieces);
    case SplitBehavior::kMergedWithPrevious:
      return merge_with_previous(pieces);
    case SplitBehavior::kMergedWithNext:
      return merge_with_next(pieces);
    case SplitBehavior::kIsolated:
    case SplitBehavior::kRemoved:
      break;
  }
  std::vector<Match> out;
  for (const Piece& piece : pieces) {
    if (!(behavior == SplitBehavior::kRemoved && piece.matched)) out.push_back(piece.range);
  }
  return out;
}

// Ranges within `text`, none empty.
std::vector<Match> split(const SplitStep& step, std::string_view text, Searcher& searcher) {
  std::vector<Match> out = apply_behavior(step.behavior, find_pieces(step, text, searcher));
  std::erase_if(out, [](const Match& range) { return range.begin == range.end; });
  return out;
}

void byte_level_words(const PreTokenizer& pre_tokenizer, std::string_view text, Match range,
                      Searcher& searcher, std::deque<std::string>& storage,
                      std::vector<Word>& words) {
  std::string_view piece = text.substr(range.begin, range.end - range.begin);
  const bool prefixed = pre_tokenizer.add_prefix_space && piece.front() != ' ';
  if (prefixed) piece = storage.emplace_back(" " + std::string(piece));
  std::vector<Match> ranges = {{0, piece.size()}};
  if (pre_tokenizer.byte_level_split)
    ranges = split(*pre_tokenizer.byte_level_split, piece, searcher);
  for (const Match& word : ranges) {
    const bool first = prefixed && word.begin == 0;
    const size_t begin = range.begin + word.begin - (prefixed && !first ? 1 : 0);
    words.push_back({piece.substr(word.begin, word.end - word.begin), begin, first});
  }
}

}  // namespace

void pre_tokenize(const PreTokenizer& pre_tokenizer, std::string_view text, Match range,
                  Searcher& searcher, std::deque<std::string>& storage, std::vector<Word>& words) {
  if (range.begin == range.end) return;
  std::vector<Match> pieces = {range};
  for (const SplitStep& step : pre_tokenizer.splits) {
    std::vector<Match> next;
    for (const Match& piece : pieces) {
      for (const Match& part :
           split(step, text.substr(piece.begin, piece.end - piece.begin), searcher)) {
        next.push_back({piece.begin + part.begin, piece.begin + part.end});
      }
    }
    pieces = std::move(next);
  }
  for (const Match& piece : pieces)
    byte_level_words(pre_tokenizer, text, piece, searcher, storage, words);
}

}  // namespace dsrsq::text
