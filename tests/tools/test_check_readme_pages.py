"""Pages for readers: paths, links, commands and figures that they name are there."""

import contextlib
import functools
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.tools import check_readme, forecasts

ROOT = check_readme.ROOT
BENCHMARKS = ROOT / "notebooks" / "benchmarks"
READMES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("", "tests", "data_prep", "notebooks", "notebooks/benchmarks")
    for path in (ROOT / folder).glob("README.md")
)


@pytest.mark.parametrize("readme", READMES)
def test_paths_and_modules_that_a_readme_names_exist(readme):
    text = (ROOT / readme).read_text("utf-8")
    paths = re.findall(r"(?<![\w/.-])(?:ocrkit|data_prep|tests|notebooks)/[\w/.-]*\w", text)
    modules = re.findall(r"python -m ((?:ocrkit|data_prep|tests)[\w.]*)", text)
    paths += [module.replace(".", "/") for module in modules]
    lost = [
        path
        for path in sorted({*paths} - {"data_prep/sources/mine.py"})
        if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()
    ]
    assert not lost


def anchors(page: Path) -> set[str]:
    """Anchors of a Markdown page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("readme", READMES)
def test_links_within_the_repository_resolve(readme):
    page = ROOT / readme
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    broken = []
    for link in links:
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


def test_the_front_page_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 200
    assert len(re.search(r"## What you can rely on\n(.*?)\n## ", text, re.S)[1].split("\n* ")) <= 8
    assert (
        len(
            re.findall(
                r"^\| ", text.split("## When something goes wrong")[1].split("\n## ")[0], re.M
            )
        )
        <= 14
    )


def commands_of(text: str) -> list[str]:
    """Commands in a Markdown text's code, a line each; comments are left out."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.split("  #")[0].strip() for line in lines + spans]


@functools.cache
def help_of(module: str, subcommand: str = "") -> str:
    """What `--help` of a command prints; of a maintainers' tool, its source."""
    if module.startswith("tests."):
        path = ROOT / module.replace(".", "/")
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        return source.read_text("utf-8")
    main = importlib.import_module("ocrkit.__main__" if module == "ocrkit" else module).main
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as end:
        main([*filter(None, [subcommand]), "--help"])
    return printed.getvalue() if end.value.code == 0 else ""


def measured_parts(target: str) -> set[str]:
    """Parts that `make check` or `make bench` has measured, from its file of figures."""
    figures = json.loads((BENCHMARKS / f"{target}.json").read_text("utf-8"))
    parts = figures["parts"] if target == "bench" else figures
    return {name for name, part in parts.items() if isinstance(part, dict) and "date" in part}


def unknown_to_make(words: list[str]) -> list[str]:
    """Words after `make` that are no target, variable of the Makefile or measured part."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    unknown = []
    for word in words:
        name, is_setting, value = word.partition("=")
        if not is_setting:
            unknown += [word] * (word not in targets)
        elif f"$({name})" not in makefile:
            unknown.append(name)
        elif name == "PARTS":
            measured = [measured_parts(target) for target in words if target in ("check", "bench")]
            unknown += sorted({*shlex.split(value)}.difference(*measured))
    return unknown


def unknown_words(command: str) -> list[str]:
    """Words of a command that are no target, part, subcommand or option (any more)."""
    words = shlex.split(command)
    if "make" in words:
        return unknown_to_make(words[words.index("make") + 1 :])
    module, *rest = words[words.index("-m") + 1 :]
    if not module.startswith(("ocrkit", "data_prep", "tests.")):
        return []
    has_subcommands = module in ("ocrkit", "data_prep.synthesize")
    subcommand = rest[0] if has_subcommands and rest and re.match("[a-z]", rest[0]) else ""
    text = help_of(module, subcommand)
    options = [word.split("=")[0] for word in rest if re.match("--[a-z]", word)]
    known = [option for option in options if re.search(rf"{option}(?![\w-])", text)]
    return [*([subcommand or module] * (not text)), *sorted({*options} - {*known})]


@pytest.mark.parametrize("readme", READMES)
def test_commands_that_a_readme_names_exist(readme):
    commands = [
        command
        for command in commands_of((ROOT / readme).read_text("utf-8"))
        if re.match(r"(\w+=\S+ )*make ", command) or re.search(r"\bpython3? -m ", command)
    ]
    assert commands
    assert {command: words for command in commands if (words := unknown_words(command))} == {}


@pytest.mark.parametrize(
    ("command", "unknown"),
    [
        ("make demo", []),
        ("make demos PYTHON=python3.13", ["demos"]),
        ("make demo PYTHONS=python3.13", ["PYTHONS"]),
        ("DIR=x make check PARTS='memory training'", ["training"]),
        ("make demo PARTS=receipts", ["receipts"]),
        ("make bench PARTS=\"receipts 'earlier receipts'\"", []),
        ("python -m ocrkit find-lr --recipe tiny", []),
        ("python -m ocrkit find-rate", ["find-rate"]),
        ("python -m ocrkit train --recipes tiny", ["--recipes"]),
        ("python -m data_prep.convert table a.csv --pictures x", ["--pictures"]),
        ("python -m tests.tools.bench receipts --fold 2", ["--fold"]),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command, unknown):
    assert unknown_words(command) == unknown


def test_every_table_between_marks_was_measured():
    check, bench, told = (
        json.loads((BENCHMARKS / f"{name}.json").read_text("utf-8"))
        for name in ("check", "bench", "forecasts")
    )
    sources = {name: name in check for parts in check_readme.PAGES.values() for name in parts}
    sources |= {
        mark: part in told for page in forecasts.PAGES.values() for mark, (part, _) in page.items()
    }
    for readme in READMES:
        text = (ROOT / readme).read_text("utf-8")
        for mark in re.findall(r"^<!-- (?!end of )(.*) -->$", text, re.MULTILINE):
            own = mark.removeprefix("bench").strip()
            is_bench = mark.startswith("bench")
            assert (not own or own in bench["parts"]) if is_bench else sources[mark], mark


def test_the_front_page_has_no_rate_outside_of_its_marks():
    text = (ROOT / "README.md").read_text("utf-8")
    typed = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    # 80 % is a metric's threshold.
    assert re.findall(r"[\d.]+ ?%", typed) == ["80 %"]
