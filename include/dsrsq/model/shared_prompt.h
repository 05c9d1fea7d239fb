// Methods of which several budgets have the same beginning: it is done once for all of them, and
// each goes on from a state of its own (generate_budgets in model/generate.h).
#pragma once

#include <vector>

#include "dsrsq/model/method.h"

namespace dsrsq {

// Where budgets part.
enum class Parting {
  kSelection,  // one choice of tokens each, after a reading that served to choose
  kContext,    // one cache each, behind the context; each reads the question
  kQuestion,   // one cache each, behind the question
};

// While a state chooses and reads, each of its `branches`, states of the same batch whose options
// differ from its own in their budget alone, gets what that budget leaves, and is at the parting as
// if it had come there itself.
class SharedPrompt {
 public:
  virtual ~SharedPrompt() = default;
  virtual Parting parting() const = 0;
};

// Whatever a branch shares with the state that read for it, beside what its layers hold.
void follow_branch(const MethodState& state, MethodState& branch);

}  // namespace dsrsq
