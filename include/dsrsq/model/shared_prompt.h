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

class SharedPrompt {
 public:
  virtual ~SharedPrompt() = default;

  // Adds a state of the same batch for each of `others`, which differ from state.options in their
  // budget alone. While `state` chooses and reads, each of them gets what its own budget leaves.
  virtual void add_branches(const Batch& batch, const std::vector<PassOptions>& others,
                            MethodState& state) = 0;
  // Those states, each as if it had come up to the parting itself.
  virtual std::vector<MethodState> take_branches(MethodState& state) = 0;
  virtual Parting parting() const = 0;
};

// Whatever a branch shares with the state that read for it, beside what its layers hold.
void follow_branch(const MethodState& state, MethodState& branch);

}  // namespace dsrsq
