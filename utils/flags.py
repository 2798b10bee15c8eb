"""From a dataclass of settings to a command line: flags, help texts and checks are derived from its fields."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import os
import sys
import time
import types
import typing
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

EXIT_MISTAKE = 1  # the exit code after an error that the user can fix


def report_error(problem: str) -> None:
    """Print it, and make it part of torchrun's report; scripts/launch.py prints it again at the end."""
    print(f"error: {problem}", file=sys.stderr)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": {"message": problem, "extraInfo": {"timestamp": int(time.time())}}}
        Path(file).write_text(json.dumps(content), encoding="utf-8")


Config = TypeVar("Config")

POSITIVE = "positive"
NOT_NEGATIVE = "not negative"
SHARE = "between 0 and 1"

_CHECKS: dict[str, typing.Callable[[float], bool]] = {
    POSITIVE: lambda value: value > 0,
    NOT_NEGATIVE: lambda value: value >= 0,
    SHARE: lambda value: 0 <= value <= 1,
}


def option(
    default: Any,
    help: str,
    *flags: str,
    choices: Sequence[str] | None = None,
    must_be: str | None = None,
    at_most: float | None = None,
    required: bool = False,
) -> Any:
    """A setting that is also a flag.

    flags: spellings other than `--<field name>`. A spelling without a dash makes it a positional argument, which takes
    one value or more if the field is a Sequence.
    must_be: POSITIVE, NOT_NEGATIVE or SHARE. at_most: largest value. Both are checked after parsing, as is that numbers
    are finite.
    """
    checks = {"must_be": must_be, "at_most": at_most}
    metadata = {"help": help, "flags": flags, "choices": choices, "required": required, **checks}
    return field(default=default, metadata=metadata)


def parse_command_line(config_class: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """Read the flags of `config_class`, a dataclass of groups. Wrong flags exit with code 2."""
    parser = make_parser(config_class)
    namespace = vars(parser.parse_args(arguments))
    groups = {}
    for group_field, group_class in _groups(config_class):
        names = [f.name for f in dataclasses.fields(group_class)]
        try:
            groups[group_field] = group_class(**{name: namespace[name] for name in names})
        except ValueError as error:  # flags that exclude each other
            parser.error(str(error))
        if message := _first_bad_value(groups[group_field]):
            parser.error(message)
    return config_class(**groups)


def make_parser(config_class: type) -> argparse.ArgumentParser:
    """The parser for `config_class`, with one help section per group."""
    layout: Any = partial(argparse.HelpFormatter, max_help_position=34, width=120)
    parser = _Parser(prog=_program(), description=config_class.__doc__, formatter_class=layout, allow_abbrev=False)
    for _, group_class in _groups(config_class):
        section = parser.add_argument_group(group_class.__doc__)
        kinds = typing.get_type_hints(group_class)
        for setting in dataclasses.fields(group_class):
            _add_flag(section, setting, kinds[setting.name])
    return parser


def parse_numbers(text: str | None, flag: str, kind: type = int, *, positive: bool = False) -> tuple[Any, ...]:
    """`"1,2,3"` -> (1, 2, 3). Raises ValueError naming `flag`; if they must be positive, also for 0 and infinity."""
    wrong = f"{flag} expects comma-separated {'positive ' if positive else ''}numbers, got {text!r}."
    try:
        numbers = tuple(kind(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise ValueError(wrong) from None
    if positive and not all(0 < number < math.inf for number in numbers):
        raise ValueError(wrong)
    return numbers


def _program() -> str | None:
    """How a module was started (`python -m video.train`; argparse would say train.py); None for a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        """Exit with one line; argparse would print all flags above it."""
        problem = f"{message}{self._near(message)} ({self.prog} --help explains the flags)"
        report_error(problem)
        self.exit(2)

    def _near(self, message: str) -> str:
        """A suggestion: the known flag that an unknown one resembles; "" if none does."""
        unknown = next((word for word in message.split() if word.startswith("--")), "").partition("=")[0].strip("-")
        known = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
        if not message.startswith("unrecognized arguments") or not unknown:
            return ""
        near = [flag for flag in known if unknown in flag] or difflib.get_close_matches(unknown, known, 1, cutoff=0.7)
        return f"; did you mean --{near[0]}?" if near else ""


def _groups(config_class: type) -> list[tuple[str, type]]:
    hints = typing.get_type_hints(config_class)
    return [(f.name, hints[f.name]) for f in dataclasses.fields(config_class)]


def _add_flag(section: Any, setting: dataclasses.Field, kind: Any) -> None:
    spellings, required, default = setting.metadata["flags"], setting.metadata["required"], setting.default
    text = setting.metadata["help"].replace("%", "%%")
    if any(not flag.startswith("-") for flag in spellings):
        several = typing.get_origin(kind) is Sequence
        nargs = "+" if several else None if required else "?"
        section.add_argument(setting.name, nargs=nargs, default=default, help=text)
        return
    own = [] if any(flag.replace("-", "_") == f"__{setting.name}" for flag in spellings) else [f"--{setting.name}"]
    if isinstance(kind, types.UnionType):  # with None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    details: dict[str, Any] = {"dest": setting.name, "default": default, "required": required}
    if kind is bool:
        details["action"] = "store_true" if default is False else argparse.BooleanOptionalAction
    else:
        choices = setting.metadata["choices"]
        if typing.get_origin(kind) is tuple:  # of integers
            kind, details["nargs"] = int, len(typing.get_args(kind))
        details |= {"type": kind, "choices": choices, "metavar": None if choices else kind.__name__.upper()}
    if not ("default:" in text or required or default in (None, "") or default is False):
        shown = "on" if default is True else f"{default:.4g}" if isinstance(default, float) else default
        text += f" (default: {shown})"
    section.add_argument(*spellings, *own, help=text, **details)


def _first_bad_value(group: Any) -> str | None:
    for setting in dataclasses.fields(group):
        rule, most, value = setting.metadata["must_be"], setting.metadata["at_most"], getattr(group, setting.name)
        if isinstance(value, float) and not math.isfinite(value):
            return f"--{setting.name} must be a finite number, got {value}."
        if rule and value is not None and not _CHECKS[rule](value):
            return f"--{setting.name} must be {rule}, got {value}."
        if most and value is not None and value > most:
            return f"--{setting.name} must be at most {most}, got {value}."
    return None
