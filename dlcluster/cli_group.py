"""Two habits added to click: a did-you-mean for commands, and no option given twice in silence."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import click


class Command(click.Command):
    """A command that refuses an option given twice, unless it may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        seen: set[str] = set()
        for option in self._options_in(ctx, args):
            if option in seen:
                raise click.UsageError(f"option {option} is given twice", ctx)
            seen.add(option)
        return super().parse_args(ctx, args)

    def _options_in(self, ctx: click.Context, args: list[str]) -> Iterator[str]:
        """The canonical names of the options that may be given once only, as they stand on the command line."""
        once = {
            name: parameter
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and not parameter.multiple
            for name in parameter.opts
        }
        skip = False
        for argument in args:
            if skip:
                skip = False
                continue
            if argument == "--":
                return
            name, has_value, _value = argument.partition("=")
            if parameter := once.get(name):
                yield parameter.opts[0]
                skip = not has_value and not parameter.is_flag


class Group(click.Group):
    """A group that suggests the command that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.6)
            hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(self.list_commands(ctx))}."
            raise click.UsageError(f"no such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)
