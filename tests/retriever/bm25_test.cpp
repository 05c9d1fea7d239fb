#include "dsrsq/retriever/bm25.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsrsq {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using Terms = std::vector<std::string>;

TEST(Bm25, TermsAreLowerCasedWords) {
  EXPECT_THAT(bm25_terms("The Fox's 2nd den -- caf\xC3\xA9!"),
              ElementsAre("the", "fox", "s", "2nd", "den", "caf\xC3\xA9"));
  EXPECT_TRUE(bm25_terms(" .,\n").empty());
}

// The values are those of the bm25s package, 0.3.16: BM25(method="lucene", k1=0.9, b=0.4,
// dtype="float64") over these terms.
TEST(Bm25, EqualsBm25s) {
  std::vector<Terms> documents;
  for (const char* text :
       {"The quick brown fox jumps over the lazy dog", "A lazy dog sleeps all day and a fox hunts",
        "Foxes are quick, quick and clever", "Nothing here", "the the the dog fox"})
    documents.push_back(bm25_terms(text));
  auto near = [](double x) { return DoubleNear(x, 1e-12); };
  EXPECT_THAT(bm25_scores(documents, {"lazy", "fox"}, 0.9, 0.4),
              ElementsAre(near(0.6912475201400547), near(0.6727539776868428), 0, 0,
                          near(0.2959486620357925)));
  EXPECT_THAT(bm25_scores(documents, {"the", "dog", "the"}, 0.9, 0.4),
              ElementsAre(near(1.4129760900992403), near(0.25635981009878106), 0, 0,
                          near(1.6705806343284713)));
  EXPECT_THAT(bm25_scores(documents, {"quick", "unknown"}, 0.9, 0.4),
              ElementsAre(near(0.42784055582353075), 0, near(0.6084926063276455), 0, 0));
}

TEST(Bm25, NothingToSearch) {
  EXPECT_TRUE(bm25_scores({}, {"a"}, 0.9, 0.4).empty());
  EXPECT_THAT(bm25_scores({{}, {}}, {"a"}, 0.9, 0.4), ElementsAre(0, 0));
}

}  // namespace
}  // namespace dsrsq
