"""Commands by name, each imported once it is asked for.

So no command waits for imports that only another one needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

_COMMANDS = {
    "Experiment": {"demo": "experiment", "rebuild": "experiment", "status": "experiment", "params": "experiment"},
    "Data": {
        "download": "data",
        "extract": "data",
        "import-features": "features",
        "export-features": "features",
        "verify": "features",
        "inspect": "inspect",
    },
    "Training": {
        "pretrain": "training",
        "finetune": "training",
        "sweep": "sweep",
        "import-checkpoint": "checkpoints",
        "export-checkpoint": "checkpoints",
    },
    "Results": {
        "evaluate": "evaluation",
        "predict": "predict",
        "measure": "measure",
        "history": "evaluation",
        "search": "search",
    },
    "Operating": {"setup": "setup", "worker": "worker"},
}
"""In the order of the help: group, command, and the module of this folder whose `add_commands` adds it to an app."""
_GROUPS = {name: group for group, commands in _COMMANDS.items() for name in commands}


class Commands(TyperGroup):
    """All commands of the application."""

    def list_commands(self, ctx: Any) -> list[str]:
        self._add(*_GROUPS)
        return list(_GROUPS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add(*([cmd_name] if cmd_name in _GROUPS else _GROUPS))  # Load all commands, to suggest one.
        return super().get_command(ctx, cmd_name)

    def _add(self, *names: str) -> None:
        wanted = (_COMMANDS[_GROUPS[name]][name] for name in names if name not in self.commands)
        for module in dict.fromkeys(wanted):
            app = typer.Typer()
            import_module(f"flows.commands.{module}").add_commands(app)
            for name, command in typer.main.get_group(app).commands.items():
                command.rich_help_panel = _GROUPS[name]  # type: ignore[attr-defined]
                self.add_command(command)
