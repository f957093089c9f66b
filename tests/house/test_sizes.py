"""Files and functions stay small enough to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.house.conftest import Plant
from tests.house.tree import CODE, CPP, Tree, report, strip_cpp

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80
OURS = ("plugin_src", "memkv_nixl", "tests")

PREPROCESSOR = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
LABEL = re.compile(r"^\s*(public|private|protected)\s*:")
SCOPE = re.compile(
    r"^\s*((inline\s+)?namespace|class|struct|union|enum|typedef)\b|^\s*extern\s*\"\"\s*$"
)
MEMBER_INIT = re.compile(r"\)[^;{}]*(?<!:):(?!:)[^;]*[\w>]\s*$")


def long_files(tree: Tree) -> list[str]:
    return [
        f"{path}: {lines} lines, more than {FILE_LINES_MAX}. Split it where it has two stories"
        for path in tree.files(*CODE, under=OURS)
        if (lines := tree.text(path).count("\n")) > FILE_LINES_MAX
    ]


def without_template(head: str) -> str:
    """The head of a declaration without `public:` and `template <...>`."""
    head = LABEL.sub("", head)
    if not re.match(r"\s*template\b", head):
        return head
    depth = 0
    for position, char in enumerate(head):
        depth += (char == "<") - (char == ">")
        if char == ">" and depth == 0:
            return without_template(head[position + 1 :])
    return head


def kind_of_brace(head: str) -> str:
    head = without_template(head)
    if MEMBER_INIT.search(head):
        return "init"
    if SCOPE.search(head):
        return "scope"
    if "(" in head and not head.rstrip().endswith(("=", ",", "(")):
        return "function"
    return "list"


def function_spans(text: str) -> Iterator[tuple[int, int]]:
    """(first line, last line) of every outermost function body, told by its braces.

    Outside of functions an opening brace begins a scope (namespace, class, ...), a member
    initialiser (`Foo() : a_{1} {`), some other list or, behind a head with parentheses, a function.
    """
    code = PREPROCESSOR.sub(lambda m: "\n" * m.group().count("\n"), strip_cpp(text))
    opened: list[tuple[str, int]] = []  # what each open brace is, and the first line of its head
    head_start, line, inside = 0, 1, 0  # inside: open braces from a function's own on
    for position, char in enumerate(code):
        if char == "\n":
            line += 1
        elif char == "{":
            head = code[head_start:position]
            kind = "nested" if inside else kind_of_brace(head)
            opened.append((kind, line - head.lstrip().count("\n")))
            inside += kind in ("function", "nested", "list")
            if kind != "init":
                head_start = position + 1
        elif char == "}" and opened:
            kind, first = opened.pop()
            inside -= kind in ("function", "nested", "list")
            if kind == "function":
                yield first, line
            if kind != "init":
                head_start = position + 1
        elif char == ";" and not inside:
            head_start = position + 1


def long_functions(tree: Tree) -> list[str]:
    return [
        f"{path}:{first}: a function of {last - first + 1} lines, more than {FUNCTION_LINES_MAX}. "
        "Give its steps names of their own"
        for path in tree.files(*CPP, under=OURS)
        for first, last in function_spans(tree.text(path))
        if last - first + 1 > FUNCTION_LINES_MAX
    ]


def test_files_are_small(house: Tree) -> None:
    report(long_files(house))


def test_functions_are_small(house: Tree) -> None:
    report(long_functions(house))


def test_long_ones_are_found(plant: Plant) -> None:
    body = "  step();\n" * FUNCTION_LINES_MAX
    tree = plant(
        {
            "plugin_src/base/long.cpp": "int x;\n" * (FILE_LINES_MAX + 1),
            "memkv_nixl/_native.pyi": "x: int\n" * (FILE_LINES_MAX + 1),
            "tests/unit/f_test.cpp": f"namespace {{\nTEST(A, B) {{\n{body}}}\n}}  // namespace\n",
            "plugin_src/base/g.cpp": f"struct A {{\nA(int b) : b_{{b}}, c_(b) {{\n{body}}}\n}};\n",
            "plugin_src/base/table.cpp": "constexpr int kTable[] = {\n" + "  1,\n" * 200 + "};\n",
            "plugin_src/base/small.cpp": "// {\n" * 100
            + 'void f() {\n  g("{");\n}\n'
            + "int g();\n" * 90,
        }
    )
    assert [finding.split(":")[0] for finding in long_files(tree)] == ["plugin_src/base/long.cpp"]
    assert sorted(finding.split(":")[0] for finding in long_functions(tree)) == [
        "plugin_src/base/g.cpp",
        "tests/unit/f_test.cpp",
    ]


def test_function_spans_know_a_function() -> None:
    code = """\
template <class T>
struct Box final : Base<T> {
  explicit Box(int a)
      : a_{a}, b_{
          a}, c_(a) {
    if (a) { f(); }
  }
  auto get() const noexcept -> int { return a_; }
  bool operator==(const Box&) const = default;
  int a_{0};
  std::function<void()> hook_ = [] {};
};
#define LOOP(x) do { x; \\
  } while (0)
enum class Color : int { kRed };
int main(int argc, char** argv) {
  auto l = [&](int x) { return x; };
  return l(1'000);
}
template <class T, class U = std::vector<T>>
[[nodiscard]] auto many(T a, U b)
    -> std::expected<T, U> {
  return {};
}
"""
    assert list(function_spans(code)) == [(3, 7), (8, 8), (11, 11), (16, 19), (20, 24)]
