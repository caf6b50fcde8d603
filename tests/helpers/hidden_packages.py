"""Run commands while one package cannot be imported: `python hidden_packages.py`.

Reads JSON lines `[package, module, arguments]` from standard input and calls the `main` of the
module with the arguments and without the package; an empty package hides none. Writes `[package,
arguments, exit code, output, imported packages]` for each line. Every line runs in a fork of a
process that has imported nothing, so that it starts as a command does.
"""

import contextlib
import importlib
import importlib.abc
import io
import json
import os
import sys
import traceback


class HidingFinder(importlib.abc.MetaPathFinder):
    """Import hook that raises ModuleNotFoundError for one package, as if it were not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def run(package: str, module: str, arguments: list[str]) -> tuple[object, str]:
    """Exit code and output of a command without a package.

    The exit code of a command that ends in an exception is "traceback", and its output has it.
    """
    sys.meta_path.insert(0, HidingFinder(package))
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = importlib.import_module(module).main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            code = "traceback"
            traceback.print_exc()
    return code, output.getvalue()


if __name__ == "__main__":
    for line in sys.stdin:
        package, module, arguments = json.loads(line)
        if os.fork() == 0:
            code, output = run(package, module, arguments)
            imported = sorted({name.partition(".")[0] for name in sys.modules})
            print(json.dumps([package, arguments, code, output, imported]), flush=True)
            os._exit(0)
        os.wait()
