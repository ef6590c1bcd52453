"""Little programs that answer like Slurm's, alone on PATH: for answers that a real one cannot be made to give."""

from __future__ import annotations

from pathlib import Path

OUTPUTS = Path(__file__).parent / "site_outputs"


class FakeSlurm:
    """A folder of programs. Each call is noted in `calls`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls.log"
        folder.mkdir()

    def program(self, name: str, body: str) -> None:
        file = self.folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{body}\n')
        file.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def answers(self, name: str, text: str) -> str:
        """A shell line that prints the text."""
        file = self.folder / f"{name}.txt"
        file.write_text(text)
        return f"/bin/cat {file}"

    def cluster(self, config: str, partitions: str, nodes: str, accounts: str = "a|a\n") -> None:
        body = f"""case "$*" in
            "show config") {self.answers("config", config)} ;;
            "-o show partition") {self.answers("partition", partitions)} ;;
            "-o show node") {self.answers("node", nodes)} ;;
            *) exit 1 ;;
        esac"""
        self.program("scontrol", body)
        self.program("sacctmgr", self.answers("accounts", accounts))
        for name in ("sbatch", "squeue", "scancel"):
            self.program(name, "exit 1")


def output(name: str) -> str:
    return (OUTPUTS / f"{name}.txt").read_text()
