#include "../../src/data/code_text.h"

#include <gtest/gtest.h>

namespace dsrsq {
namespace {

using Texts = std::vector<std::string>;

std::string slice(const std::string& text, const ByteSpan& span) {
  return text.substr(span.begin, span.end - span.begin);
}

TEST(PythonFunctions, AreFoundWithTheirDocstrings) {
  const std::string code = R"py(import os

def outer(a, b=(1,
                2)):  # def wrong():
    r"""First \d.

    More.
    """
    text = """
def not_a_function():
    '''no docstring'''
"""

    async  def inner(self): # a comment
        # def commented():

        'One "line".'

        return text

    return inner


class Thing:
    """Of the class."""

    def method(self): return 1
    def other(self):
        "a" "b"
    def bytes_only(self):
        b"no docstring"
    def formatted(self):
        f"no docstring"
    def called(self):
        "x".upper()
    def \
            joined(self): pass
last = 1
)py";
  const std::vector<PythonFunction> functions = python_functions(code);
  Texts names, first_lines;
  for (const PythonFunction& function : functions) {
    names.push_back(function.name);
    if (function.docstring.end > 0) first_lines.push_back(function.first_line);
  }
  EXPECT_EQ(names,
            (Texts{"outer", "inner", "method", "other", "bytes_only", "formatted", "called"}));
  EXPECT_EQ(first_lines, (Texts{"First \\d.", "One \"line\"."}));
  EXPECT_EQ(slice(code, functions[1].docstring), "        'One \"line\".'\n");
  EXPECT_EQ(slice(code, functions[1].text),
            "async  def inner(self): # a comment\n        # def commented():\n\n"
            "        'One \"line\".'\n\n        return text\n");
  EXPECT_EQ(functions[0].docstring_text, "First \\d.\n\n    More.\n    ");
}

TEST(PythonFunctions, TextThatEndsAnywhereIsRead) {
  const std::string code = "def f(a):\n    \"\"\"Doc \\\" x.\n    \"\"\"\n    g('\\n', [\n1])\n";
  for (size_t size = 0; size <= code.size(); ++size) {
    for (const PythonFunction& function : python_functions(code.substr(0, size))) {
      EXPECT_LE(function.text.end, static_cast<int64_t>(size));
      EXPECT_LE(function.docstring.end, static_cast<int64_t>(size));
    }
  }
  EXPECT_EQ(python_functions("def f():\r\n  'Doc.'\r\n  pass").at(0).first_line, "Doc.");
  EXPECT_TRUE(python_functions(")))\ndef\n'''").empty());
}

Texts names_of(const std::string& path, const std::string& code) {
  Texts names;
  for (const Definition& definition : top_level_definitions(path, code))
    names.push_back(definition.name);
  return names;
}

TEST(TopLevelDefinitions, OfSeveralLanguages) {
  EXPECT_EQ(
      names_of("a.py", "def one(x):\n  def no(): pass\nclass Two(Base):\nasync def three():\n"),
      (Texts{"one", "Two", "three"}));
  EXPECT_EQ(names_of("a.h",
                     "class Forward;\nclass LEVELDB_EXPORT Cache {\nstruct Slice final : Base {\n"
                     "enum class Kind : int {\nint main() {\n"),
            (Texts{"Cache", "Slice", "Kind"}));
  EXPECT_EQ(names_of("a.rs",
                     "pub(crate) fn run<T>(x: T) -> u8 {\npub struct Args {\nimpl Args {\n"
                     "trait Sink where Self: Sized {\n"),
            (Texts{"run", "Args", "Sink"}));
  EXPECT_EQ(names_of("A.java", "public final class Gson extends Base {\r\npublic interface B {\n"),
            (Texts{"Gson", "B"}));
  EXPECT_TRUE(names_of("README.md", "class of its own\n").empty());
  EXPECT_TRUE(names_of("Makefile", "def x:\n").empty());
  const std::string code = "x\nclass A {\r\n";
  EXPECT_EQ(slice(code, top_level_definitions("a.cc", code).at(0).line), "class A {");
  EXPECT_TRUE(names_of("a.rs", "pub(").empty());
}

TEST(HoldsIdentifier, WholeWordsAlone) {
  EXPECT_TRUE(holds_identifier("x = run()", "run"));
  EXPECT_TRUE(holds_identifier("rerun run", "run"));
  EXPECT_FALSE(holds_identifier("rerun run_2 runs", "run"));
}

TEST(CutText, MovesPlaces) {
  const CutText cut("abcdefgh", {{1, 3}, {5, 6}});
  EXPECT_EQ(cut.text(), "adegh");
  EXPECT_EQ(cut.moved(0), 0);
  EXPECT_EQ(cut.moved(2), 1);  // inside a cut: where it was
  EXPECT_EQ(cut.moved(3), 1);
  EXPECT_EQ(cut.moved(5), 3);
  EXPECT_EQ(cut.moved(8), 5);
}

}  // namespace
}  // namespace dsrsq
