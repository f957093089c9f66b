"""Writes what is generated out of memkv_nixl/proto: the Python of the messages and services.

protos.py [--check]: with --check nothing is written; exits 1 where a file is not what it would
write. `./dev protos` runs it, and tests/unit/test_protos.py checks.

protoc writes `from memkv.v1 import …`, as if we owned a package of that name; here it becomes
`from memkv_nixl.proto.memkv.v1 import …`. The same with `etcd`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "memkv_nixl/proto"
SOURCES = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))
PLUGINS = Path(sys.executable).parent  # mypy-protobuf's
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"
OURS = re.compile(r"\b(from|import) (memkv\.v1|etcd)\b")
PRIVATE = re.compile(r"\b(?<!proto\.)(memkv\.v1|etcd)\.(?=\w+_pb2)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    fresh = generated()
    if not args.check:
        for path in present():
            path.unlink()
        for name, text in fresh.items():
            (PROTO / name).write_text(text, encoding="utf-8")
        return 0
    there = {path.relative_to(PROTO).as_posix(): path.read_text("utf-8") for path in present()}
    wrong = sorted(
        name for name in fresh.keys() | there.keys() if fresh.get(name) != there.get(name)
    )
    for name in wrong:
        print(f"memkv_nixl/proto/{name} is not what protoc makes of the .proto. Run ./dev protos")
    return 1 if wrong else 0


def present() -> list[Path]:
    """The generated files that are there."""
    return [path for path in PROTO.rglob("*_pb2*") if path.suffix in (".py", ".pyi")]


def generated() -> dict[str, str]:
    """Each generated file's text, by its path below memkv_nixl/proto."""
    with tempfile.TemporaryDirectory() as folder:
        run_protoc(
            f"--plugin=protoc-gen-mypy={PLUGINS / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={PLUGINS / 'protoc-gen-mypy_grpc'}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            f"--mypy_out=quiet:{folder}",
            f"--mypy_grpc_out=quiet:{folder}",
        )
        made = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): ours(path.read_text("utf-8")) for path in made}


def run_protoc(*outputs: str) -> None:
    status = protoc.main(["protoc", f"-I{PROTO}", f"-I{WELL_KNOWN}", *outputs, *SOURCES])
    if status != 0:
        sys.exit(f"protoc ended with {status}; its message stands above")


def ours(text: str) -> str:
    """Generated text with our package's name."""
    return PRIVATE.sub(r"memkv_nixl.proto.\1.", OURS.sub(r"\1 memkv_nixl.proto.\2", text))


if __name__ == "__main__":
    sys.exit(main())
