"""The last words of `./dev test` and `./dev ci`: stages, what was skipped, and real counts.

    summary.py [--stage 'NAME|EXIT STATUS|SECONDS|REPORTS']... [REPORTS...]

REPORTS is a folder of JUnit files: `pytest.xml`, or a `ctest.xml` with one gtest file per
executable. A ctest that failed although its gtest file shows no failure (a crash, a sanitizer, a
timeout) is one failed test, and so is a stage that failed without a failed test. Ends with
`N passed, N failed`; exits 1 if anything failed.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Counts:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


def reason(text: str | None) -> str:
    """The reason of a skip on one line, without the place in the source that gtest names first."""
    return " ".join(re.sub(r"^\S+:\d+\n", "", text or "no reason given").split())


def count_cases(path: Path) -> Counts:
    """Counts the cases of one JUnit file, as gtest and pytest write them."""
    counts = Counts()
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failed.append(name)
        elif skipped is not None:
            counts.skipped.append(f"{name}: {reason(skipped.get('message'))}")
        elif case.get("status") == "notrun":
            counts.skipped.append(f"{name}: disabled in its source")
        else:
            counts.passed += 1
    return counts


def count_folder(folder: Path) -> Counts:
    counts = Counts()
    if (folder / "pytest.xml").exists():
        counts.add(count_cases(folder / "pytest.xml"))
    if (folder / "ctest.xml").exists():
        for case in ET.parse(folder / "ctest.xml").getroot().iter("testcase"):
            name = case.get("name", "?")
            report = folder / f"{name}.xml"
            ours = count_cases(report) if report.exists() else Counts()
            if case.get("status") == "run":
                ours.passed += not report.exists()
            elif not ours.failed:
                ours.failed.append(f"{name} ({case.get('status')}: crash, sanitizer or timeout)")
            counts.add(ours)
    return counts


@dataclass
class Stage:
    name: str
    status: int
    seconds: int
    reports: str

    @classmethod
    def parse(cls, text: str) -> Stage:
        name, status, seconds, reports = text.split("|")
        return cls(name, int(status), int(seconds), reports)


def main() -> int:
    parser = argparse.ArgumentParser(description="Sums up test reports.")
    parser.add_argument("--stage", action="append", default=[], type=Stage.parse)
    parser.add_argument("reports", nargs="*")
    args = parser.parse_args()

    rows = [(stage.name, stage.status, stage.seconds, stage.reports) for stage in args.stage]
    total = Counts()
    if rows:
        print(f"{'stage':<24} {'result':<7} {'time':>7} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for name, status, seconds, reports in rows:
        counts = count_folder(Path(reports)) if reports else Counts()
        if status != 0 and not counts.failed:
            counts.failed.append(f"exit status {status}")
        result = "ok" if status == 0 and not counts.failed else "FAILED"
        numbers = f"{counts.passed:>7} {len(counts.failed):>7} {len(counts.skipped):>8}"
        if not reports:
            numbers = ""
        print(f"{name:<24} {result:<7} {seconds:>5} s {numbers}".rstrip())
        counts.skipped = [f"{name}: {test}" for test in counts.skipped]
        counts.failed = [f"{name}: {test}" for test in counts.failed]
        total.add(counts)
    for reports in args.reports:
        total.add(count_folder(Path(reports)))

    for heading, names in (("skipped", total.skipped), ("failed", total.failed)):
        print(f"\n{heading}: {len(names) or 'none'}")
        for name in names:
            print(f"  {name}")
    print(f"\n{total.passed} passed, {len(total.failed)} failed")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
