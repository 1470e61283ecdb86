# SPDX-License-Identifier: Apache-2.0
"""A dpdk-testpmd at its prompt; a command has ended when the prompt comes again."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process

PROMPT = "testpmd> "

_START_SECONDS = 60.0


class Testpmd:
    """The dpdk-testpmd that `argv` starts, with `prefix` as its --file-prefix.

    Its output is `directory`/`prefix`.out. `argv` must have it line-buffered, as by stdbuf.
    """

    def __init__(self, argv: Sequence[str], directory: Path, prefix: str) -> None:
        self._prefix = prefix
        self._read = 0  # characters of the output already returned
        directory.mkdir(parents=True, exist_ok=True)
        output = directory / f"{prefix}.out"
        output.unlink(missing_ok=True)
        reader, self._input = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = Process(argv, output, stdin=reader)
        except BaseException:
            os.close(self._input)
            raise
        finally:
            os.close(reader)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def await_start(self) -> str:
        """Await the first prompt; return the output up to it."""
        return self._await_prompt("testpmd starts", _START_SECONDS)

    def command(self, text: str) -> str:
        """Give one command; return its output when it has ended."""
        os.write(self._input, f"{text}\n".encode())
        return self._await_prompt(f"testpmd: {text}")

    def close(self) -> None:
        """End testpmd, in order if it still takes commands."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._input, b"quit\n")
        try:
            self._process.wait(5.0)
        except LabError:
            self._process.kill()
        os.close(self._input)
        # testpmd leaves this directory behind even where it shares nothing.
        shutil.rmtree(Path("/run/dpdk", self._prefix), ignore_errors=True)

    def _await_prompt(self, what: str, seconds: float = PATIENCE) -> str:
        """The output up to the next prompt."""
        process = self._process

        def printed() -> str | None:
            text = process.output.read_text(errors="replace")[self._read :]
            answer, prompt, _ = text.partition(PROMPT)
            return answer + prompt if prompt else None

        text = process.ready(printed, what, seconds)
        self._read += len(text)
        return text.removesuffix(PROMPT)
