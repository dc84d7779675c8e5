"""The command line: `v2flow COMMAND [SUBCOMMAND] ...` -> an exit status.

A table from command to module; only the module that is asked for is imported. Each one has `HELP`,
`add_arguments(parser)` and `run(args) -> int`. What the commands do is theirs to know.

Exit status: what `run` returns; 2 for a mistake in what the user gave, told in one line; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from v2flow_engine import __version__
from v2flow_engine.errors import V2FlowError

# command words -> (module, one line for the list of commands)
COMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("generate",): ("v2flow_engine.offline.command", "prompts to pictures in a folder"),
    ("report",): ("v2flow_engine.offline.report.command", "one page about a folder of generated pictures"),
    ("serve",): ("v2flow_engine.serving.command", "a model behind OpenAI's images API"),
    ("encode",): ("v2flow_engine.tokenizing.encode_command", "images to visual tokens, in a Parquet file"),
    ("reconstruct",): (
        "v2flow_engine.tokenizing.reconstruct_command",
        "images, or their tokens, to what the tokenizer keeps of them",
    ),
    ("variations",): (
        "v2flow_engine.tokenizing.variations_command",
        "an image's tokens decoded several times, each with other noise",
    ),
    ("edit",): ("v2flow_engine.tokenizing.edit_command", "a part of an image drawn anew, from a prompt"),
    ("data", "emoji"): (
        "v2flow_engine.training.emoji.command",
        "make the emoji dataset from openly licensed sets",
    ),
    ("data", "codes"): (
        "v2flow_engine.training.coded_command",
        "encode pictures once, to train an LLM where the pictures are not",
    ),
    ("data", "text"): (
        "v2flow_engine.training.own_text",
        "text that an LLM writes by itself, to keep what it knows",
    ),
    ("fetch",): ("v2flow_engine.fetching.command", "an openly licensed pretrained LLM, verified"),
    ("train", "vae"): ("v2flow_engine.training.command", "train the autoencoder"),
    ("train", "tokenizer"): (
        "v2flow_engine.training.command",
        "train the visual tokenizer and its flow decoder",
    ),
    ("train", "llm"): ("v2flow_engine.training.command", "train the LLM that writes visual tokens"),
    ("train", "vocabulary"): (
        "v2flow_engine.training.command",
        "move a trained tokenizer's codes into another LLM's vocabulary space",
    ),
    ("train", "features"): (
        "v2flow_engine.training.command",
        "train the network whose features FID compares",
    ),
    ("convert", "official"): (
        "v2flow_engine.training.official.command",
        "a checkpoint of the reference -> a visual tokenizer",
    ),
    ("convert", "llm"): (
        "v2flow_engine.converting.command",
        "visual tokens for a plain LLaMA or Phi-3; or one of these as the other",
    ),
    ("convert", "adapters"): (
        "v2flow_engine.converting.adapters_command",
        "trained adapters and their tokenizer -> a small model, whole on first use",
    ),
    ("eval", "generation"): (
        "v2flow_engine.evaluation.generation_command",
        "do pictures show what prompts say?",
    ),
    ("eval", "words"): (
        "v2flow_engine.evaluation.words_command",
        "do pictures show what prompts mean in words that no caption had?",
    ),
    ("eval", "reconstruction"): (
        "v2flow_engine.evaluation.reconstruction_command",
        "PSNR and SSIM of autoencoder and tokenizer, codebook usage",
    ),
    ("eval", "tokenizers"): (
        "v2flow_engine.evaluation.tokenizers_command",
        "several tokenizers on the same pictures: PSNR, SSIM, FID, codebook, the LLM's loss",
    ),
    ("eval", "text"): (
        "v2flow_engine.evaluation.text_command",
        "does an LLM that learnt to draw know text as well as before?",
    ),
    ("plan",): (
        "v2flow_engine.planning.command",
        "how many GPUs a large job takes, and how long; or calibrate this machine",
    ),
    ("parity",): ("v2flow_engine.evaluation.parity_command", "compare with what the reference computed"),
    ("info",): ("v2flow_engine.info", "versions, device and the models at hand"),
}


class CommandModule(Protocol):
    """What a module in `COMMANDS` offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit status."""


class UsageError(V2FlowError):
    """The command line itself is wrong: an unknown command, option or value."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are raised, so that every mistake is told the same way."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` in place of printing the usage and exiting."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status and raises nothing that a user's mistake can cause."""
    try:
        status = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except V2FlowError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("v2flow_engine", "v2flow_vllm"):
            raise
        return _fail(
            f"this command needs the package {error.name!r}, which is not installed; make setup installs it"
        )
    except KeyboardInterrupt:
        print("v2flow: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def dispatch(argv: list[str]) -> int:
    """Find the command, import its module, parse the rest and run it. Raises `V2FlowError`."""
    words = _command_words(argv)
    if words is None:
        return 0
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # vLLM's extension warns at every start
    module_name, _ = COMMANDS[words]
    module = cast(CommandModule, importlib.import_module(module_name))
    parser = OneLineParser(prog=f"v2flow {' '.join(words)}", description=module.HELP)
    parser.set_defaults(subcommand=words[-1])
    module.add_arguments(parser)
    try:
        args = parser.parse_args(argv[len(words) :])
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return module.run(args)


def _command_words(argv: list[str]) -> tuple[str, ...] | None:
    """The command at the start of the line; None if help or the version was asked for and printed."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return None
    if argv[0] == "--version":
        print(f"v2flow {__version__}")
        return None
    if (argv[0],) in COMMANDS:
        return (argv[0],)
    group = [words[1] for words in COMMANDS if words[0] == argv[0] and len(words) == 2]
    if not group:
        raise UsageError(_unknown("command", argv[0], list(dict.fromkeys(words[0] for words in COMMANDS))))
    if len(argv) > 1 and argv[1] in group:
        return argv[0], argv[1]
    if len(argv) > 1 and argv[1] in ("-h", "--help"):
        print(overview(argv[0]))
        return None
    if len(argv) == 1:
        raise UsageError(f"{argv[0]} what? One of: {', '.join(group)}")
    raise UsageError(_unknown(f"{argv[0]} command", argv[1], group))


def overview(group: str | None = None) -> str:
    """The list of commands, or of one group's."""
    rows = {" ".join(words): line for words, (_, line) in COMMANDS.items() if group in (None, words[0])}
    width = max(map(len, rows))
    lines = [f"usage: v2flow {group + ' ' if group else ''}COMMAND ...", ""]
    lines += [f"  {name:<{width}}  {line}" for name, line in rows.items()]
    return "\n".join([*lines, "", "v2flow COMMAND --help says more."])


def _unknown(kind: str, word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {word!r}; {hint}There are: {', '.join(known)}"


def _fail(message: str) -> int:
    print(f"v2flow: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
