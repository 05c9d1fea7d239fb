// Passages as lost-in-the-middle's prompt shows them.
#pragma once

#include "dsrsq/data/example.h"

namespace dsrsq {

// "Document [1](Title: TITLE) TEXT", a line each (Liu et al. 2023, prompting.py); a passage's title
// is its first line. Evidence, answer spans and passages move along. Throws DataError for a
// document without passages, or a passage of one line.
DocumentExample number_passages(const DocumentExample& example);

}  // namespace dsrsq
