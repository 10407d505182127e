"""A report that counts the problems of a data set by kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EXAMPLES = 5
LONGEST = 400  # characters of an example

# code -> (severity, meaning). An error makes a score 0 or stops a reader, a warning changes a score, a note changes nothing.
CODES: dict[str, tuple[Severity, str]] = {
    "cannot-open": ("error", "the data set cannot be read at all"),
    "cannot-check": ("error", "a video's files make the check fail"),
    "bad-entry": ("error", "an entry of the metadata does not fit the layout; it is left out"),
    "unsafe-id": ("error", "an id or a frame's name would lead outside the data set; it is left out"),
    "key-twice": ("error", "a JSON object has the same key twice; only the last one counts"),
    "frames-none": ("error", "a video lists no frames"),
    "frames-order": ("error", "a video's frames are not in ascending order; loaders sort them, evaluators do not"),
    "frame-twice": ("error", "a video lists a frame more than once"),
    "frame-missing": ("error", "a listed frame has no image file"),
    "video-file": ("error", "a video file is missing, cannot be decoded, or has another number of frames than listed"),
    "frame-unreadable": ("error", "a frame's image cannot be decoded"),
    "frame-size": ("error", "a frame's size differs from the video's first frame"),
    "video-size": ("warning", "the metadata's height and width are not the frames' size"),
    "frames-unlisted": ("warning", "image files that are not in the video's list; labelling reads the whole folder"),
    "folder-unlisted": ("note", "a folder of frames that belongs to no video of this split"),
    "id-slash": ("note", "an id holds slashes, so its folders are nested"),
    "text-empty": ("warning", "an expression has no text"),
    "text-twice": ("note", "two expressions of one video have the same text"),
    "expressions-none": ("warning", "a video has no expressions"),
    "type-unknown": ("warning", "the type of an expression is missing or unknown; it is in no mean"),
    "ids-empty": ("warning", "an expression names no annotation though it is not no-target; it counts as no object"),
    "ids-unexpected": ("warning", "a no-target expression names annotations"),
    "ids-length": ("warning", "obj_id and anno_id of an expression differ in length"),
    "masks-missing": ("error", "the ground truth of the split is missing"),
    "test-list-missing": (
        "warning",
        "the list of test videos is missing, so none of them is left out",
    ),
    "annotation-unknown": ("error", "an annotation that an expression names is not in the masks' file"),
    "mask-list-short": ("error", "a mask list is shorter than the frames; public evaluators fail on it and score 0"),
    "mask-list-long": ("warning", "a mask list is longer than the frames; the extra masks are ignored"),
    "mask-missing": ("error", "an annotation image is missing"),
    "mask-unreadable": ("error", "a mask cannot be decoded"),
    "mask-size": ("error", "a mask's size differs from the frames' size"),
    "mask-shift": ("warning", "the masks of a video fit its frames clearly better at another shift in time"),
    "mask-null": ("note", "null masks: the object is not visible in that frame"),
    "mask-overlap": ("note", "frames on which an expression's masks overlap, so that their sum exceeds 1"),
    "never-visible": ("warning", "an expression has no pixel on any frame though it is not no-target"),
    "foreground-missing": ("warning", "the file of foreground masks is missing; R needs it"),
    "foreground-unusable": ("error", "a video's foreground masks are missing, too few, unreadable or of another size"),
}


@dataclass
class Problem:
    """One kind of inconsistency.

    Attributes:
        code: a key of `CODES`.
        severity: error, warning or note.
        meaning: a description for users.
        count: number of occurrences.
        examples: the first occurrences, at most `EXAMPLES`.
    """

    code: str
    severity: Severity
    meaning: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Report:
    """The inconsistencies of one data set. rich prints it as a table."""

    def __init__(self, name: str, root: str) -> None:
        self.name = name
        self.root = root
        self.videos = 0
        self.expressions = 0
        self._problems: dict[str, Problem] = {}

    def add(self, code: str, example: str, count: int = 1) -> None:
        """Adds occurrences of a problem.

        Args:
            code: a key of `CODES`.
            example: the place. The first `EXAMPLES` are kept, without characters that cannot be printed.
            count: number of occurrences.
        """
        if code not in self._problems:
            self._problems[code] = Problem(code, *CODES[code])
        problem = self._problems[code]
        problem.count += count
        if len(problem.examples) < EXAMPLES:
            shown = "".join(character if character.isprintable() else "\ufffd" for character in example[:LONGEST])
            problem.examples.append(shown)

    @property
    def problems(self) -> list[Problem]:
        """The problems: errors, then warnings, then notes, each in the order of `CODES`."""
        order = list(CODES)
        return sorted(
            self._problems.values(), key=lambda found: (SEVERITIES.index(found.severity), order.index(found.code))
        )

    def count(self, severity: Severity) -> int:
        """Number of inconsistencies of a severity."""
        return sum(problem.count for problem in self._problems.values() if problem.severity == severity)

    @property
    def consistent(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not self.count("error") and not self.count("warning")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.name} at {self.root}: {self.videos} videos, {self.expressions} expressions")
        if self._problems:
            table = Table("severity", "code", "count", "meaning, and first places")
            for problem in self.problems:
                where = "\n".join([problem.meaning, *(f"  {example}" for example in problem.examples)])
                # ids and file names are untrusted, so they are no markup
                table.add_row(problem.severity, problem.code, f"{problem.count:,}", Text(where))
            yield table
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in SEVERITIES)
        yield Text(counts if self._problems else "no inconsistency found")
