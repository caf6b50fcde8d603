"""Commands run in this process, one package hidden after another: `python hidden_packages.py`.

Reads lines of JSON `[package, module, arguments]` from standard input, `module` holding a `main`,
and writes for each `[package, arguments, exit code, output]`. Every line is run in a fork of a
process that has imported none of the packages, so that each starts as a command does.
"""

import contextlib
import importlib
import importlib.abc
import io
import json
import os
import sys
import traceback


class Hidden(importlib.abc.MetaPathFinder):
    """Finds no module of a package, as where it is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def run(package: str, module: str, arguments: list[str]) -> tuple[object, str]:
    """Exit code and output of a command without a package; a traceback is output as well."""
    sys.meta_path.insert(0, Hidden(package))
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
            print(json.dumps([package, arguments, code, output]), flush=True)
            os._exit(0)
        os.wait()
