"""All texts that a command is given, in order: its arguments, then its files, or standard input."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from attrs import frozen

from provider.errors import InvalidRequest
from provider.texts.lines import STANDARD_INPUT, TextFile
from provider.texts.records import Places, ReadOptions, Record, RecordFile

_DEFAULT = ReadOptions()


class TextSource:
    """Texts that can be read again and again, with little memory. Made by `opened`.

    Attributes:
        skipped: empty texts that were left out, as of the last time that all were read.
    """

    def __init__(self, parts: Sequence[Record | RecordFile], options: ReadOptions) -> None:
        self._parts, self._options = parts, options
        self.skipped = Places()

    @classmethod
    @contextmanager
    def opened(cls, texts: Sequence[str], files: Sequence[Path], options: ReadOptions = _DEFAULT) -> Iterator[Self]:
        """Texts from arguments, then from files; from standard input if there is neither.

        Args:
            texts: arguments; `-` stands for standard input.
            files: `-` is standard input.
            options: how to read files.

        Raises:
            InvalidRequest: standard input is named twice, or cannot be read.
        """
        paths = [*files, *([] if files or texts else [STANDARD_INPUT])]
        if [*texts, *map(str, paths)].count("-") > 1:
            msg = "standard input (-) is named twice, and can be read once"
            raise InvalidRequest(msg)
        with ExitStack() as stack:

            def file(path: Path) -> RecordFile:
                return RecordFile(stack.enter_context(TextFile.rereadable(path)), options)

            arguments = [
                file(STANDARD_INPUT) if text == "-" else Record(_argument(text), "", number, "argument")
                for number, text in enumerate(texts, 1)
            ]
            yield cls([*arguments, *map(file, paths)], options)

    def __iter__(self) -> Iterator[Record]:
        """All texts, those that are left out excepted.

        Raises:
            InvalidRequest: a line cannot be read; at the end, if an empty text is refused (one of spaces is none), an
                option has no effect, or there is no text at all.
        """
        empty, is_any = Places(), False
        for part in self._parts:
            for record in (part,) if isinstance(part, Record) else part:
                if record.text or self._options.empty == "keep":
                    is_any = True
                    yield record
                else:
                    empty.add(record.place)
        self._check_used()
        if empty and self._options.empty == "refuse":
            are = "is" if empty.count == 1 else "are"
            msg = f"{empty} {are} empty; remove empty texts (`embed --skip-empty` leaves them out)"
            raise InvalidRequest(msg)
        if not is_any:
            raise self._nothing(empty)
        self.skipped = empty

    def types(self) -> Mapping[str, Any]:
        """The Arrow types of fields that are the same in all texts; empty where they are not known."""
        first, *others = [part.types() if isinstance(part, RecordFile) else None for part in self._parts]
        return first if first is not None and all(each == first for each in others) else {}

    def check_unchanged(self) -> None:
        """As `RecordFile.check_unchanged`, of all files."""
        for part in self._parts:
            if isinstance(part, RecordFile):
                part.check_unchanged()

    def _nothing(self, empty: Places) -> InvalidRequest:
        files = ", ".join(part.name for part in self._parts if isinstance(part, RecordFile))
        found = f" but empty ones ({empty})" if empty else ""
        where = f" in {files}" if files else ""
        return InvalidRequest(f"no texts{where}{found}: give some as arguments, with --file, or on standard input")

    def _check_used(self) -> None:
        formats = {part.kind for part in self._parts if isinstance(part, RecordFile)}
        options, is_csv = self._options, bool(formats & {"csv", "tsv"})
        for flag, is_given, is_used, kind in (
            ("--field", options.field is not None, bool(formats & {"jsonl", "json"}), "JSON"),
            ("--column", options.column is not None, is_csv or "parquet" in formats, "CSV or Parquet"),
            ("--no-header", not options.has_header, is_csv, "CSV"),
        ):
            if is_given and not is_used:
                msg = f"{flag} is for {kind} input, and there is none; remove it, or set --input-format"
                raise InvalidRequest(msg)


@frozen
class Records:
    """What was read at once. `skipped` are the empty texts that were left out; the others keep their order."""

    texts: list[Record]
    skipped: Places


def read_records(texts: Sequence[str], files: Sequence[Path], options: ReadOptions = _DEFAULT) -> Records:
    """All texts in memory; arguments and errors as of `TextSource`."""
    with TextSource.opened(texts, files, options) as source:
        return Records(list(source), source.skipped)


def _argument(text: str) -> str:
    """Arguments are UTF-8 in a locale that is not, where Python keeps their bytes as unpaired surrogates."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text  # other surrogates, which the tokenizer refuses
