"""The `fastgan` command: one command a module, imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

import fastgan
from fastgan.checks import unknown
from fastgan.cli._stopping import Terminated, heeding_sigterm
from fastgan.cli._telling import telling

COMMANDS = {
    "train": "train a recipe: fastgan train [RECIPE] [--steps N] [--data PATH] ...",
    "sample": "draw images from a checkpoint: fastgan sample CKPT -n 64 -o grid.png",
    "picture": "classes, interpolation, reconstructions, nearest, evolution: fastgan picture ...",
    "upscale": "four times the sides: fastgan upscale CKPT image.png -o large.png",
    "inpaint": "fill a hole in: fastgan inpaint CKPT image.png mask.png -o whole.png",
    "translate": "an image of another kind: fastgan translate CKPT grey.png -o colour.png",
    "vocode": "a sound from its log-mel spectrogram: fastgan vocode CKPT clip.wav -o out.wav",
    "eval": "measure a checkpoint: fastgan eval CKPT --data mnist --metrics fid,kid,is",
    "report": "a run on one HTML page: fastgan report runs/digits",
    "compare": "runs side by side: fastgan compare runs/digits runs/digits-2",
    "levels": "draw levels of a game as text: fastgan levels CKPT -n 16 -o levels.txt",
    "recipes": "list the recipes",
    "augment": "write samples of each class into folders: fastgan augment CKPT --per-class 100 ...",
    "augment-preview": "what an augmentation does: fastgan augment-preview DATA --augment ada",
    "config": "print a recipe's settings as a file: fastgan config dcgan-64 > run.yaml",
    "data": "download or look through data sets: fastgan data fetch mnist, data check PATH",
    "export": "write the generator: fastgan export CKPT --format onnx -o generator.onnx",
    "explain": "how each block runs here: fastgan explain dcgan-64",
    "tune": "measure and keep the fastest form of each layer: fastgan tune dcgan-64",
    "bench": "measure speed, in a checkout: fastgan bench [--quick]",
    "doctor": "versions, devices, and which backends can run here",
    "completion": "completion of commands and flags for a shell: fastgan completion bash",
}
"""What each does. It is a module here with a function `run(arguments) -> exit status`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 2 an error, 128 + n by signal n."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [argument for argument in given if argument != "--verbose"]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"fastgan {fastgan.__version__}")
        return 0
    verbose = "--verbose" in given
    try:
        with heeding_sigterm(), telling(f"fastgan {arguments[0]}", verbose):
            return _run(arguments, verbose)
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except Terminated:
        return _stopped(signal.SIGTERM)


def _run(arguments: list[str], verbose: bool) -> int:
    try:
        return _command(arguments[0])(arguments[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except Exception as error:
        # Imported this late because a signal may come while PyTorch is being imported.
        from fastgan.cli._common import is_first
        from fastgan.engine import LostRankError, NonFiniteError

        expected = ValueError, OSError, ModuleNotFoundError, NonFiniteError
        if not isinstance(error, expected) or os.environ.get("FASTGAN_DEBUG"):
            raise
        if verbose:
            traceback.print_exception(error)
        # The first process speaks for what befalls all of them.
        if is_first() or isinstance(error, LostRankError):
            print(f"fastgan: error: {_message(error)}", file=sys.stderr)
        return 2


def _stopped(number: signal.Signals) -> int:
    # By the variable alone: a signal may come while PyTorch is being imported.
    if os.environ.get("RANK", "0") == "0":
        print(f"fastgan: stopped by {number.name}", file=sys.stderr)
    return 128 + number


def _usage() -> str:
    lines = [f"  {name:15}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastgan COMMAND [ARGUMENTS]",
            "",
            "The fastest correct way to train convolutional GANs on PyTorch.",
            "",
            *lines,
            "",
            "fastgan COMMAND --help tells more; fastgan --version prints the version.",
            "With --verbose a command tells what it chose and why, and errors show a traceback.",
        ]
    )


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    command: Callable[[list[str]], int] = import_module(f"fastgan.cli.{name.replace('-', '_')}").run
    return command


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
