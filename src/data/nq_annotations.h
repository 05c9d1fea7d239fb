// The annotations of Natural Questions, alike in both of its forms. Private to src/data.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "dsrsq/data/example.h"

namespace dsrsq {

// The bytes of a span {"start_token", "end_token", ...}; nothing where it is the null span.
using NqSpanReader =
    std::function<std::optional<ByteSpan>(const nlohmann::json& span, const std::string& name)>;

// Sets answers, answer spans and evidence of `question`. Several annotators give several answers,
// each once; yes/no become "yes" / "no"; where nobody gave a short answer or yes/no, the long
// answers are the answers. Evidence is the long answers, or the short ones where there is none.
void read_nq_annotations(const nlohmann::json& annotations, const std::string& document,
                         const NqSpanReader& read_span, Question& question);

// ".../index.php?title=Health_(gaming)&oldid=819315199" -> "Health (gaming)"; "" where the address
// names none.
std::string title_of_url(const std::string& url);

}  // namespace dsrsq
