"""Generated command lines with absurd values, in a reduced count; `make check` runs 2,000."""

import argparse

from ocrkit.__main__ import _parser
from tests.tools.fuzz_commands import COMMANDS, RARE, fuzz, options_of


def test_fuzzed_values_end_in_one_sentence_and_the_right_exit_code():
    result = fuzz(120, seed=7, rare=False)
    assert result["faults"] == []
    assert {0, 1, 2} >= set(result["codes"]) >= {0, 2}


def test_every_option_of_every_command_takes_part():
    assert set(RARE) < set(COMMANDS)
    names = {name: [a.dest for a in options_of(name)] for name in COMMANDS}
    assert {name for name in COMMANDS if "." not in name} == set(_commands())
    assert {"max_steps", "trust_remote_code", "recipe"} <= set(names["train"])
    assert {"min_lr", "max_lr", "steps"} <= set(names["find-lr"])
    assert {"split", "seed", "workers", "limit"} <= set(names["data_prep.convert"])
    assert {"count", "damage"} <= set(names["data_prep.synthesize toys"])
    assert names["data_prep.pack"] and names["sweep"] and names["doctor"]
    assert all(isinstance(a, argparse.Action) for a in options_of("export"))


def _commands():
    """Names of ocrkit's commands, from its parser."""
    (choices,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return choices.choices
