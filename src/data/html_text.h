// The text of an HTML page. Private to src/data.
#pragma once

#include <string>
#include <string_view>

namespace dsrsq {

// What stands between the tags, as a browser would space it: runs of white space are one blank,
// <br> is a line feed, paragraphs and other blocks are a blank line apart. The content of head,
// script and style, comments and tags are left out. Numeric character references and those of
// punctuation
// (&amp; &lt; &gt; &quot; &apos; &nbsp; &mdash; &hellip; quotes) become UTF-8, other names stay.
std::string html_text(std::string_view html);

// Whether the text has a paragraph, break or document tag.
bool looks_like_html(std::string_view text);

}  // namespace dsrsq
