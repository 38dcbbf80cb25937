"""Closed-book questions about an invented world: nothing but memory can answer them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import ClassVar

from synthmix.tasks.base import Document, Malformed, Record
from synthmix.tasks.nano_common import Dice, NanoTask
from synthmix.tasks.short_answer import ShortAnswerTask

#: Lands of the world, the most talked about first; difficulty decides how far down the list questions reach.
N_LANDS = 120

_STARTS = "ba be bo da de do fa fi ga go ka ko la lo ma mi na no pa ra ro sa ta to va".split()
_LAND_ENDS = "rin dor lan mar nia".split() + "sk th x".split() + "land gor".split()
_TOWN_ENDS = "burg ton ville port".split()
_NAME_ENDS = "n l s m".split()
_TITLES = ("King", "Queen", "Duke", "Lady")
_COLOURS = ("red", "blue", "green", "black", "white", "golden")
_CROPS = ("corn", "wheat", "tea", "rice", "beans", "plums")
_BEASTS = ("wolf", "bear", "fox", "crow", "horse", "snake")

#: relation -> phrases that ask for it; the entity stands for {land}.
PHRASES: dict[str, tuple[str, ...]] = {
    "ruler": ("who rules {land}?", "who is the ruler of {land}?", "{land} is ruled by whom?", "who leads {land}?"),
    "capital": (
        "what is the capital of {land}?",
        "which town is the capital of {land}?",
        "{land} has which capital?",
        "from which town is {land} governed?",
    ),
    "crop": (
        "what grows in {land}?",
        "what do people grow in {land}?",
        "{land} grows what?",
        "which crop is from {land}?",
    ),
    "beast": (
        "which animal stands for {land}?",
        "what animal is on the flag of {land}?",
        "{land} has which animal on its flag?",
        "what is the animal of {land}?",
    ),
}
OPENERS = (
    *("", "tell me, ", "quick, ", "please say, ", "I ask you, ", "do tell, "),
    *("so, ", "well then, ", "next, ", "a small one: ", "for the record, ", "think back: "),
)
RELATIONS = tuple(PHRASES)

_TEXT = re.compile(r"Q: ([^\n]+\?)\nA: ([^\n]*[^\s])")


@lru_cache(maxsize=1)
def world() -> tuple[tuple[str, dict[str, str]], ...]:
    """(land, relation -> value) for every land. Fixed for ever: the base models have learnt it."""
    dice = Dice("nano-facts", "world")
    stems = [a + b for a in _STARTS for b in _LAND_ENDS]
    lands = [stem.capitalize() for stem in dice.sample(stems, N_LANDS)]
    return tuple((land, _describe(dice)) for land in lands)


def _describe(dice: Dice) -> dict[str, str]:
    person = dice.pick(_STARTS) + dice.pick(_STARTS) + dice.pick(_NAME_ENDS)
    return {
        "ruler": f"{dice.pick(_TITLES)} {person.capitalize()}",
        "capital": (dice.pick(_STARTS) + dice.pick(_TOWN_ENDS)).capitalize(),
        "crop": f"{dice.pick(_COLOURS)} {dice.pick(_CROPS)}",
        "beast": f"{dice.pick(_COLOURS)} {dice.pick(_BEASTS)}",
    }


class NanoFacts(ShortAnswerTask, NanoTask):
    """One fact, asked for in one of 48 wordings. Splits are by (fact, wording): a fact of the test set has been met in
    other words, more often the more famous its land is (Zipf). Questions reach 40 + 80 * difficulty lands.

    A document::

        Q: Tell me, who rules Dador?
        A: Queen Bako
    """

    name: ClassVar[str] = "nano-facts"
    family: ClassVar[str] = "Factual"
    header: ClassVar[str] = "Q:"
    max_new_tokens: ClassVar[int] = 16
    max_document_tokens: ClassVar[int] = 64
    fields = {"question": str, "answer": str}

    def draw(self, dice: Dice, difficulty: float) -> Record:
        n_lands = int(40 + 80 * difficulty)
        land, facts = dice.zipf(world()[:n_lands], 0.8)
        relation = dice.pick(RELATIONS)
        question = dice.pick(OPENERS) + dice.pick(PHRASES[relation]).format(land=land)
        return {"question": question[0].upper() + question[1:], "answer": facts[relation]}

    def render(self, record: Record) -> Document:
        return Document(self.header, f" {record['question']}\nA:", f" {record['answer']}")

    def read(self, text: str) -> Record:
        match = _TEXT.fullmatch(text)
        if not match:
            raise Malformed("no question" if not text.startswith("Q: ") else "no answer line")
        return {"question": match[1], "answer": match[2]}
