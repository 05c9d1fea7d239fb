#include "../../src/data/html_text.h"

#include <gtest/gtest.h>

namespace dsrsq {
namespace {

TEST(HtmlText, IsSpacedAsABrowserWould) {
  EXPECT_EQ(html_text("<!DOCTYPE html><html><head><title>no</title></head>\n<body>\n <h1>\n  A "
                      "<i>\n   b\n  </i>\n </h1><p class='x>'>c<br/>d</p>\n\n<P>e</P></body>"),
            "A b\n\n'>c\nd\n\ne");
  EXPECT_EQ(html_text("x<!-- <p> -->y <script>if (a < b) </p>;</script>z"), "xy z");
  EXPECT_EQ(html_text("a<b>c</b>d"), "acd");
}

TEST(HtmlText, CharacterReferences) {
  EXPECT_EQ(html_text("a &amp;&lt;p&gt; &quot;&#39;&#x2014;&nbsp;&hellip;"), "a &<p> \"'— …");
  EXPECT_EQ(html_text("AT&T &unknown; &#; &#xD800; &#1114112; &#9999999999;"),
            "AT&T &unknown; &#; &#xD800; &#1114112; &#9999999999;");
}

TEST(HtmlText, TextThatIsNoneStays) {
  EXPECT_EQ(html_text("1 < 2 and 3 > 2"), "1 < 2 and 3 > 2");
  EXPECT_FALSE(looks_like_html("1 < 2 <b and <pre"));
  EXPECT_TRUE(looks_like_html("a<br/>b"));
  EXPECT_TRUE(looks_like_html("<P class=\"x\">"));
  for (const char* open : {"<", "a<p", "<!--", "&", "&#", "<script>x", "</"})
    EXPECT_LE(html_text(open).size(), 3u) << open;
}

}  // namespace
}  // namespace dsrsq
