"""Small function specifications whose tests are executed: HumanEval's image."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from synthmix.tasks.base import Answer, Document, Malformed, Record
from synthmix.tasks.nano_common import Dice, NanoTask


class Step(NamedTuple):
    """One phrase of a specification: what it says, the line that does it, and what it does."""

    phrase: str
    line: str
    run: Callable[[list[int]], Any]


def _family(phrase: str, line: str, run: Callable[[list[int], int], Any]) -> list[Step]:
    return [
        Step(phrase.format(k=k), line.format(k=k), lambda xs, k=k: run(xs, k))  # type: ignore[misc]
        for k in range(2, 10)
    ]


#: Families of steps, the most frequent first; a family with a number has one step for each of 2 .. 9.
FAMILIES: tuple[list[Step], ...] = (
    _family("add {k} to each", "xs = [x + {k} for x in xs]", lambda xs, k: [x + k for x in xs]),
    [Step("keep the even ones", "xs = [x for x in xs if x % 2 == 0]", lambda xs: [x for x in xs if x % 2 == 0])],
    _family("multiply each by {k}", "xs = [x * {k} for x in xs]", lambda xs, k: [x * k for x in xs]),
    [Step("reverse the list", "xs = xs[::-1]", lambda xs: xs[::-1])],
    _family("keep those above {k}", "xs = [x for x in xs if x > {k}]", lambda xs, k: [x for x in xs if x > k]),
    [Step("sort the list", "xs = sorted(xs)", sorted)],
    _family("take {k} from each", "xs = [x - {k} for x in xs]", lambda xs, k: [x - k for x in xs]),
    [Step("keep the odd ones", "xs = [x for x in xs if x % 2 == 1]", lambda xs: [x for x in xs if x % 2 == 1])],
    _family("drop the first {k}", "xs = xs[{k}:]", lambda xs, k: xs[k:]),
    [Step("square each", "xs = [x * x for x in xs]", lambda xs: [x * x for x in xs])],
    _family("keep those below {k}", "xs = [x for x in xs if x < {k}]", lambda xs, k: [x for x in xs if x < k]),
    [Step("negate each", "xs = [-x for x in xs]", lambda xs: [-x for x in xs])],
    _family("drop multiples of {k}", "xs = [x for x in xs if x % {k}]", lambda xs, k: [x for x in xs if x % k]),
    [Step("drop repeats", "xs = list(dict.fromkeys(xs))", lambda xs: list(dict.fromkeys(xs)))],
    _family("keep every {k}th one", "xs = xs[::{k}]", lambda xs, k: xs[::k]),
    [Step("drop the last one", "xs = xs[:-1]", lambda xs: xs[:-1])],
    _family("replace each by its rest mod {k}", "xs = [x % {k} for x in xs]", lambda xs, k: [x % k for x in xs]),
    [Step("make each positive", "xs = [abs(x) for x in xs]", lambda xs: [abs(x) for x in xs])],
    _family("cap each at {k}", "xs = [min(x, {k}) for x in xs]", lambda xs, k: [min(x, k) for x in xs]),
    [Step("halve each", "xs = [x // 2 for x in xs]", lambda xs: [x // 2 for x in xs])],
    _family("raise each to at least {k}", "xs = [max(x, {k}) for x in xs]", lambda xs, k: [max(x, k) for x in xs]),
    [Step("drop the zeros", "xs = [x for x in xs if x]", lambda xs: [x for x in xs if x])],
    _family("move the first {k} to the end", "xs = xs[{k}:] + xs[:{k}]", lambda xs, k: xs[k:] + xs[:k]),
    [Step("sort downwards", "xs = sorted(xs)[::-1]", lambda xs: sorted(xs)[::-1])],
)
LAST: tuple[Step, ...] = (
    Step("return the sum", "return sum(xs)", sum),
    Step("return the list", "return xs", list),
    Step("return the largest", "return max(xs, default=0)", lambda xs: max(xs, default=0)),
    Step("return the count", "return len(xs)", len),
    Step("return the smallest", "return min(xs, default=0)", lambda xs: min(xs, default=0)),
    Step("return the first two", "return xs[:2]", lambda xs: xs[:2]),
)
#: Longest specification that is read; it bounds the numbers that repeated squaring can reach.
MAX_STEPS = 6
NAMES = ("f", "solve", "run", "g")

_BY_PHRASE = {step.phrase: step for family in FAMILIES for step in family}
_LAST_BY_PHRASE = {step.phrase: step for step in LAST}
_TEXT = re.compile(r'def ([a-z]+)\(xs\):\n    """([A-Z][^\n"]*)\."""\n((?:    [^\n]*\S\n)*    [^\n]*\S)')

#: What every specification is tried on: signs, zeros, repeats, every remainder, lists too short to drop from.
INPUTS: tuple[list[int], ...] = (
    [3, -1, 4, 1, -5, 9, 2, 6, 5, 3, 8, 7],
    [0, 12, -7, 10, 18, 27, -20, 11, 15, 14, 0, 5, 2],
    [8, 7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8, -9],
    [-9, -2, -4, -8, -3, -10, -6, -21, -35, -5],
    [20, 9, 16, 3, 35, 8, 1, 24, 13, 6, 5, 40, 4, 7, 10, 2],
    [2, 2, 5, 5],
    [7],
    [],
)


def parse_spec(spec: str) -> list[Step]:
    """The steps of a specification such as ``Square each, keep the odd ones, return the sum``.

    Raises:
        Malformed: for a phrase that no step has; the last, and only the last, must return.
    """
    *steps, last = (spec[0].lower() + spec[1:]).split(", ")
    if last not in _LAST_BY_PHRASE:
        raise Malformed("specification does not end in a known return")
    if len(steps) > MAX_STEPS:
        raise Malformed("more steps than any specification has")
    if not all(phrase in _BY_PHRASE for phrase in steps):
        raise Malformed("unknown phrase in the specification")
    return [*(_BY_PHRASE[phrase] for phrase in steps), _LAST_BY_PHRASE[last]]


def asserts(name: str, steps: list[Step]) -> str:
    """One assert for each of :data:`INPUTS`, with the value that the specification demands."""
    lines = []
    for xs in INPUTS:
        value: Any = list(xs)
        for step in steps:
            value = step.run(value)
        lines.append(f"assert {name}({xs}) == {value}")
    return "\n".join(lines) + "\n"


class NanoCode(NanoTask):
    """One to three steps over a list of numbers, then a return. The split is by specification, not by function name.

    The tests are not part of the document, as in HumanEval. They follow from the specification, whose phrases have
    one meaning each, so ``parse`` rebuilds them; a text with an unknown phrase has no tests and is malformed.

    A document::

        def solve(xs):
            \"\"\"Square each, keep the odd ones, return the sum.\"\"\"
            xs = [x * x for x in xs]
            xs = [x for x in xs if x % 2 == 1]
            return sum(xs)
    """

    name: ClassVar[str] = "nano-code"
    family: ClassVar[str] = "Code"
    answering = "generation"
    metric: ClassVar[str] = "pass@1"
    header: ClassVar[str] = "def"
    stop: ClassVar[tuple[str, ...]] = ("\ndef", "\n\n")
    max_new_tokens: ClassVar[int] = 80
    max_document_tokens: ClassVar[int] = 144
    executes: ClassVar[bool] = True
    fields = {"prompt": str, "canonical_solution": str, "entry_point": str, "test": str}

    def draw(self, dice: Dice, difficulty: float) -> Record:
        """A candidate without its tests; they are added to those that are kept."""
        n_steps = 1 + sum(dice.chance(0.4 + 0.4 * difficulty) for _ in range(2))
        steps = [dice.zipf(dice.zipf(FAMILIES, 1.0), 0.5) for _ in range(n_steps)]
        steps.append(dice.zipf(LAST, 0.5))
        spec = ", ".join(step.phrase for step in steps)
        name = dice.zipf(NAMES)
        return {
            "prompt": f'def {name}(xs):\n    """{spec[0].upper()}{spec[1:]}."""\n',
            "canonical_solution": "\n".join(f"    {step.line}" for step in steps),
            "entry_point": name,
        }

    def complete(self, record: Record) -> Record:
        return {**record, "test": asserts(record["entry_point"], parse_spec(self._spec(record)))}

    def _spec(self, record: Record) -> str:
        return str(record["prompt"]).split('"""')[1][:-1]

    def question(self, record: Record) -> str:
        return self._spec(record)

    def render(self, record: Record) -> Document:
        return Document(self.header, record["prompt"].removeprefix(self.header), record["canonical_solution"])

    def read(self, text: str) -> Record:
        match = _TEXT.fullmatch(text)
        if not match:
            raise Malformed("no specification" if '."""\n' not in text else "not a specification over indented lines")
        name, spec, body = match.groups()
        prompt = text[: len(text) - len(body)]
        return {
            "prompt": prompt,
            "canonical_solution": body,
            "entry_point": name,
            "test": asserts(name, parse_spec(spec)),
        }

    def gold(self, record: Record) -> str:
        return str(record["canonical_solution"])

    def extract(self, completion: str, strict: bool = True) -> Answer:
        """The completion as it is, indentation included."""
        if not completion.strip():
            return Answer(None, "empty answer")
        return Answer(completion, span=(0, len(completion)))

    def program(self, answer: str, record: Record) -> str:
        return f"{record['prompt']}{answer}\n\n{record['test']}"

    def steps(self, record: Record) -> int:
        """Number of phrases of the specification."""
        return self._spec(record).count(", ") + 1
