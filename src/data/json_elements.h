// Cuts the elements of a JSON list, or the members of a JSON object, out of a stream of bytes, so
// that one of any size is read in the memory of one element. It knows brackets and strings only:
// what an element holds is checked by the parser afterwards. Private to src/data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "record_reader.h"

namespace dsrsq {

class JsonElements {
 public:
  using ElementSink = std::function<void(const std::string& text, const RecordPlace& place)>;
  using ProblemSink = std::function<void(const RecordPlace& place, const std::string& reason)>;

  // What the elements are.
  enum class Of {
    kList,    // those of the list that the input is
    kMember,  // those of the list that is the member `key` of the object that the input is
    kObject,  // the members of that object themselves; their keys are in the place
  };

  // `key` is for kMember alone. An element over `maximum_bytes` is dropped as a problem.
  JsonElements(Of of, std::string key, size_t maximum_bytes, ElementSink element,
               ProblemSink problem);

  // False after a problem that leaves nothing to go on from; it has been told to `problem`.
  bool add(const char* bytes, size_t size);
  void finish();  // tells the problem of an input that ends too early

 private:
  enum class State {
    kStart,         // before the list, or the object around it
    kBeforeKey,     // in the object
    kKey,           // in the string of a key
    kColon,         // after it
    kBeforeMember,  // before the value of the key
    kAfterMember,   // after it
    kFirst,         // after [: an element or ]
    kBefore,        // after a comma in the list
    kValue,         // in an element, or in a member that is passed over
    kAfter,         // after an element
    kEnd,           // after everything
  };
  bool step(char c);
  bool start(char c);
  bool in_object(char c);
  bool in_list(char c);
  void begin_value(char c);
  bool in_value(char c);  // false: `c` stands after the value and is still to be read
  void end_value();
  bool fail(const std::string& reason);

  Of of_;
  std::string key_;
  size_t maximum_;
  ElementSink element_;
  ProblemSink problem_;
  State state_ = State::kStart;
  std::string text_;  // of the element, or of the key
  RecordPlace place_;
  int64_t line_ = 1;
  int64_t elements_ = 0;
  int64_t depth_ = 0;
  bool in_list_ = false;      // the value is an element, not a member that is passed over
  bool after_comma_ = false;  // in the object: a key has to follow
  bool container_ = false;
  bool in_string_ = false;
  bool escaped_ = false;
  bool too_long_ = false;
  bool found_ = false;
  bool failed_ = false;
};

}  // namespace dsrsq
