"""The .proto files: what is generated from them is current, they keep the rules of the house, and
nothing that was released changes (docs/formats/control.md)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2 as pb
from grpc_tools import protoc

PACKAGE = "memkv.v1"
GOLDEN = "tests/golden/control_v1.txt"
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")
CAPITALS = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_Field = pb.FieldDescriptorProto


def files_in(folder: Path, out: Path, under: str = "") -> list[pb.FileDescriptorProto]:
    """What protoc reads in a folder, or under a part of it, with comments."""
    found = (folder / under).rglob("*.proto")
    sources = sorted(path.relative_to(folder).as_posix() for path in found)
    flags = ["--include_source_info", f"--descriptor_set_out={out}"]
    assert protoc.main(["protoc", f"-I{folder}", *flags, *sources]) == 0
    return list(pb.FileDescriptorSet.FromString(out.read_bytes()).file)


@pytest.fixture(scope="module")
def files(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[pb.FileDescriptorProto]:
    # Beside it lies what we use of etcd's API, whose names and numbers are not ours.
    out = tmp_path_factory.mktemp("protos") / "set"
    return files_in(repo / "memkv_nixl/proto", out, "memkv")


# ---- rules


def findings(file: pb.FileDescriptorProto) -> Iterator[str]:
    """What is wrong with a file: where, what, and what to do."""
    if file.package != PACKAGE or not file.name.startswith(PACKAGE.replace(".", "/") + "/"):
        yield f"{file.name}: must be of package {PACKAGE} and lie in its folder"
    if file.syntax != "proto3":
        yield f'{file.name}: must begin with syntax = "proto3"'
    if not file_comment(file):
        yield f"{file.name}: begins without a comment that says what it is"
    said = commented(file)
    for path, name, kind in named_things(file):
        if path not in said:
            yield f"{file.name}: {kind} {name} has no comment"
    for message in file.message_type:
        yield from message_findings(file.name, message)
    for enum in file.enum_type:
        yield from enum_findings(file.name, enum)
    for service in file.service:
        yield from service_findings(file.name, service)


def file_comment(file: pb.FileDescriptorProto) -> str:
    return "".join(
        text
        for location in file.source_code_info.location
        if list(location.path) == [12]  # the syntax statement
        for text in (*location.leading_detached_comments, location.leading_comments)
    )


def commented(file: pb.FileDescriptorProto) -> set[tuple[int, ...]]:
    return {
        tuple(location.path)
        for location in file.source_code_info.location
        if location.leading_comments.strip()
    }


def named_things(file: pb.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str, str]]:
    """(path, name, kind) of all that needs a comment; paths as in descriptor.proto."""
    for i, message in enumerate(file.message_type):
        yield (4, i), message.name, "message"
        for j, field in enumerate(message.field):
            yield (4, i, 2, j), f"{message.name}.{field.name}", "field"
    for i, enum in enumerate(file.enum_type):
        yield (5, i), enum.name, "enum"
        for j, value in enumerate(enum.value):
            yield (5, i, 2, j), value.name, "value"
    for i, service in enumerate(file.service):
        yield (6, i), service.name, "service"
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{service.name}.{method.name}", "call"


def message_findings(where: str, message: pb.DescriptorProto) -> Iterator[str]:
    if not PASCAL.fullmatch(message.name):
        yield f"{where}: message {message.name} must be in PascalCase"
    for field in message.field:
        if not SNAKE.fullmatch(field.name):
            yield f"{where}: field {message.name}.{field.name} must be in snake_case"
    if message.enum_type or any(not nested.options.map_entry for nested in message.nested_type):
        yield f"{where}: {message.name} has types inside it; they stand beside it"


def enum_findings(where: str, enum: pb.EnumDescriptorProto) -> Iterator[str]:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
    if enum.value[0].name != f"{prefix}_UNSPECIFIED" or enum.value[0].number != 0:
        yield f"{where}: enum {enum.name} must begin with {prefix}_UNSPECIFIED = 0"
    for value in enum.value:
        if not value.name.startswith(f"{prefix}_") or not CAPITALS.fullmatch(value.name):
            yield f"{where}: value {value.name} must be in CAPITALS and begin with {prefix}_"


def service_findings(where: str, service: pb.ServiceDescriptorProto) -> Iterator[str]:
    for method in service.method:
        for suffix, type_ in (("Request", method.input_type), ("Response", method.output_type)):
            if type_ != f".{PACKAGE}.{method.name}{suffix}":
                yield (
                    f"{where}: {service.name}.{method.name} must have a {method.name}{suffix} of "
                    f"its own, not {type_.lstrip('.')}"
                )


# ---- what was released


def inventory(files: list[pb.FileDescriptorProto]) -> set[str]:
    """Every field, value and call, one a line."""
    lines = set()
    for file in files:
        for message in file.message_type:
            reserved = {n for r in message.reserved_range for n in range(r.start, r.end)}
            lines |= {f"{message.name}.{number} reserved" for number in reserved}
            lines |= {field_line(message, field) for field in message.field}
        for enum in file.enum_type:
            lines |= {f"{enum.name}.{value.number} {value.name}" for value in enum.value}
        for service in file.service:
            lines |= {method_line(service, method) for method in service.method}
    return lines


def field_line(message: pb.DescriptorProto, field: _Field) -> str:
    words = [f"{message.name}.{field.number}", field.name]
    words.append(_Field.Type.Name(field.type).removeprefix("TYPE_").lower())
    if field.type_name:
        words.append(field.type_name.lstrip("."))
    if field.label == _Field.LABEL_REPEATED:
        words.append("repeated")
    if field.proto3_optional:
        words.append("optional")
    elif field.HasField("oneof_index"):
        words.append(f"oneof {message.oneof_decl[field.oneof_index].name}")
    return " ".join(words)


def method_line(service: pb.ServiceDescriptorProto, method: pb.MethodDescriptorProto) -> str:
    streams = ["stream"] * method.client_streaming + ["answers on"] * method.server_streaming
    return " ".join([f"{service.name}.{method.name}", *streams])


def broken(released: set[str], present: set[str]) -> list[str]:
    """Lines of what was released that are not kept; a field may become reserved."""
    return sorted(
        line for line in released - present if f"{line.split(' ')[0]} reserved" not in present
    )


# ---- tests


def test_what_is_generated_is_current(repo: Path) -> None:
    said = subprocess.run(
        [sys.executable, ".ci/protos.py", "--check"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_protos_keep_the_rules(files: list[pb.FileDescriptorProto]) -> None:
    assert [finding for file in files for finding in findings(file)] == []


def test_nothing_that_was_released_changes(repo: Path, files: list[pb.FileDescriptorProto]) -> None:
    released = set((repo / GOLDEN).read_text("utf-8").splitlines())
    present = inventory(files)
    assert broken(released, present) == [], "docs/formats/control.md says how this may change"
    assert sorted(present - released) == [], f"add these lines to {GOLDEN}, in order"


def test_every_call_and_reason_is_on_the_page(
    repo: Path, files: list[pb.FileDescriptorProto]
) -> None:
    from memkv_nixl.control._calls import STATUS_OF

    page = (repo / "docs/formats/control.md").read_text("utf-8")
    calls = [method.name for file in files for one in file.service for method in one.method]
    assert [name for name in calls if name not in page] == []
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", page, re.MULTILINE))
    assert rows == {reason.name: status.name for reason, status in STATUS_OF.items()}


def test_every_kind_of_event_is_on_the_page(repo: Path) -> None:
    page = (repo / "docs/formats/control.md").read_text("utf-8")
    listed = set(re.findall(r"`([a-z_]+)`", page.split("## Events")[1].split("## How")[0]))
    told: set[str] = set()
    for path in (repo / "memkv_nixl/control").glob("*.py"):
        told |= set(
            re.findall(r'(?:tell|Happened|_settled)\(\s*"([a-z_]+)"', path.read_text("utf-8"))
        )
    assert listed == told


WRONG = """
syntax = "proto3";
package memkv.v1;
message bad_name { int32 BadField = 1; message Inner {} }
// Said.
enum Color { RED = 0; COLOR_blue = 1; }
// Said.
service S {
  // Said.
  rpc Do(bad_name) returns (bad_name);
}
"""


def test_wrong_protos_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "protos"
    (folder / "memkv/v1").mkdir(parents=True)
    (folder / "memkv/v1/wrong.proto").write_text(WRONG)
    (folder / "elsewhere.proto").write_text('// Said.\nsyntax = "proto3";\npackage other;\n')
    found = [one for file in files_in(folder, tmp_path / "set") for one in findings(file)]
    for part in (
        "elsewhere.proto: must be of package",
        "begins without a comment",
        "message bad_name has no comment",
        "field bad_name.BadField has no comment",
        "value RED has no comment",
        "bad_name must be in PascalCase",
        "BadField must be in snake_case",
        "has types inside it",
        "must begin with COLOR_UNSPECIFIED",
        "value COLOR_blue must be in CAPITALS",
        "must have a DoRequest",
        "must have a DoResponse",
    ):
        assert any(part in finding for finding in found), part


def test_broken_promises_are_found(tmp_path: Path) -> None:
    def lines(body: str) -> set[str]:
        folder = tmp_path / "one"
        folder.mkdir(exist_ok=True)
        (folder / "a.proto").write_text(f'syntax = "proto3";\n{body}')
        return inventory(files_in(folder, tmp_path / "set"))

    released = lines("message M { int32 a = 1; optional int32 b = 2; }")
    assert (
        broken(released, lines("message M { int32 a = 1; optional int32 b = 2; int32 c = 3; }"))
        == []
    )
    assert broken(released, lines("message M { int32 a = 1; reserved 2; }")) == []
    for changed in (
        "message M { int32 a = 1; }",
        "message M { int32 a = 1; int32 b = 2; }",
        "message M { int64 a = 1; optional int32 b = 2; }",
        "message M { int32 z = 1; optional int32 b = 2; }",
        "message M { repeated int32 a = 1; optional int32 b = 2; }",
        "message M { int32 a = 3; optional int32 b = 2; }",
    ):
        assert len(broken(released, lines(changed))) == 1, changed
