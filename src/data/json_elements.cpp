#include "json_elements.h"

#include <utility>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

std::string show(char c) {
  return c > ' ' && c <= '~' ? std::string("\"") + c + "\"" : concat("byte ", int{c} & 0xFF);
}

}  // namespace

JsonElements::JsonElements(Of of, std::string key, size_t maximum_bytes, ElementSink element,
                           ProblemSink problem)
    : of_(of),
      key_(std::move(key)),
      maximum_(maximum_bytes),
      element_(std::move(element)),
      problem_(std::move(problem)) {}

bool JsonElements::add(const char* bytes, size_t size) {
  for (size_t i = 0; i < size && !failed_; ++i) {
    if (state_ == State::kValue && in_string_ && !escaped_ && !too_long_) {
      // Most bytes are inside strings: take them in runs.
      size_t run = i;
      while (run < size && bytes[run] != '"' && bytes[run] != '\\' && bytes[run] != '\n' &&
             text_.size() + (run - i) < maximum_)
        ++run;
      if (in_list_) text_.append(bytes + i, run - i);
      i = run;
      if (i == size) break;
    }
    step(bytes[i]);
    if (bytes[i] == '\n') ++line_;
  }
  return !failed_;
}

bool JsonElements::step(char c) {
  if (state_ == State::kValue) {
    if (in_value(c)) return true;  // else `c` ends a number or a word
  }
  if (state_ == State::kKey) return in_object(c);
  if (is_blank(c)) return true;
  switch (state_) {
    case State::kStart:
      return start(c);
    case State::kFirst:
    case State::kBefore:
    case State::kAfter:
      return in_list(c);
    case State::kEnd:
      return fail(concat(show(c), " after the end of the ", of_ == Of::kList ? "list" : "object"));
    default:
      return in_object(c);
  }
}

bool JsonElements::start(char c) {
  // A byte order mark.
  if (static_cast<unsigned char>(c) == 0xEF || static_cast<unsigned char>(c) == 0xBB ||
      static_cast<unsigned char>(c) == 0xBF)
    return true;
  if (of_ == Of::kList && c == '[') {
    state_ = State::kFirst;
    found_ = true;
    return true;
  }
  if (of_ != Of::kList && c == '{') {
    state_ = State::kBeforeKey;
    found_ = of_ == Of::kObject;
    return true;
  }
  const std::string with = of_ == Of::kMember ? concat(" with the list \"", key_, "\"") : "";
  return fail(of_ == Of::kList ? concat("expected a list, got ", show(c))
                               : concat("expected an object", with, ", got ", show(c)));
}

bool JsonElements::in_object(char c) {
  switch (state_) {
    case State::kBeforeKey:
      if (c == '}' && !after_comma_) {  // an empty object
        state_ = State::kEnd;
        return true;
      }
      if (c != '"') return fail(concat("expected a key, got ", show(c)));
      state_ = State::kKey;
      text_.clear();
      return true;
    case State::kKey:
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        state_ = State::kColon;
        return true;
      }
      if (text_.size() >= maximum_) return fail("a key without an end");
      text_ += c;
      return true;
    case State::kColon:
      if (c != ':') return fail(concat("expected \":\" after a key, got ", show(c)));
      state_ = State::kBeforeMember;
      return true;
    case State::kBeforeMember:
      if (of_ == Of::kMember && text_ == key_) {
        found_ = true;
        if (c != '[') return fail(concat("\"", key_, "\" must be a list, got ", show(c)));
        state_ = State::kFirst;
        return true;
      }
      if (c == ',' || c == ']' || c == '}' || c == ':')
        return fail(concat("expected a value, got ", show(c)));
      in_list_ = of_ == Of::kObject;
      begin_value(c);
      return true;
    default:  // kAfterMember
      if (c == ',') {
        state_ = State::kBeforeKey;
        after_comma_ = true;
        return true;
      }
      if (c != '}') return fail(concat("expected \",\" or \"}\" after a member, got ", show(c)));
      state_ = State::kEnd;
      return true;
  }
}

bool JsonElements::in_list(char c) {
  const bool end = c == ']' && state_ != State::kBefore;
  if (end) {
    state_ = of_ == Of::kList ? State::kEnd : State::kAfterMember;
    return true;
  }
  if (state_ == State::kAfter) {
    if (c != ',') return fail(concat("expected \",\" or \"]\" after an element, got ", show(c)));
    state_ = State::kBefore;
    return true;
  }
  if (c == ',' || c == ']' || c == '}' || c == ':')
    return fail(concat("expected an element, got ", show(c)));
  in_list_ = true;
  begin_value(c);
  return true;
}

void JsonElements::begin_value(char c) {
  state_ = State::kValue;
  place_ = {line_, in_list_ ? elements_ : -1};
  if (of_ == Of::kObject) place_.key = text_;
  text_.clear();
  depth_ = 0;
  container_ = c == '[' || c == '{';
  in_string_ = escaped_ = too_long_ = false;
  in_value(c);
}

bool JsonElements::in_value(char c) {
  const bool scalar = !container_ && !in_string_;
  if (scalar && (is_blank(c) || c == ',' || c == ']' || c == '}')) {
    end_value();
    return false;
  }
  if (text_.size() >= maximum_) {
    too_long_ = true;  // goes on to its end without being kept
  } else if (in_list_) {
    text_ += c;
  }
  if (in_string_) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      if (!container_) end_value();
    }
  } else if (c == '"') {
    in_string_ = true;
  } else if (c == '[' || c == '{') {
    ++depth_;
  } else if (c == ']' || c == '}') {
    if (--depth_ == 0) end_value();
  }
  return true;
}

void JsonElements::end_value() {
  state_ = in_list_ && of_ != Of::kObject ? State::kAfter : State::kAfterMember;
  if (!in_list_) return;
  ++elements_;
  if (too_long_) {
    problem_(place_, concat("the element is longer than ", maximum_, " bytes"));
  } else {
    element_(text_, place_);
  }
}

bool JsonElements::fail(const std::string& reason) {
  failed_ = true;
  const bool listed =
      state_ == State::kFirst || state_ == State::kBefore || state_ == State::kAfter;
  problem_({line_, listed ? elements_ : -1},
           concat("invalid JSON (", reason, "); nothing after it is read"));
  return false;
}

void JsonElements::finish() {
  if (failed_) return;
  if (state_ == State::kStart) {
    problem_({line_, -1}, "invalid JSON (the file is empty)");
  } else if (state_ == State::kValue && in_list_) {
    problem_(place_, "invalid JSON (the file ends inside this element)");
  } else if (state_ != State::kEnd) {
    problem_({line_, in_list_ ? elements_ : -1}, "invalid JSON (the file ends too early)");
  } else if (!found_) {
    problem_({line_, -1}, concat("the object has no list \"", key_, "\""));
  }
}

}  // namespace dsrsq
