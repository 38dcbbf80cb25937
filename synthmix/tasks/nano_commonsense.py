"""Five-way questions over a small ontology of everyday things, in the image of CommonsenseQA."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import ClassVar

from synthmix.tasks.base import Document, Malformed, Record
from synthmix.tasks.nano_common import Dice, NanoTask

#: thing | where it is found | what it is used for | what it is made of | what kind of thing it is
ONTOLOGY = """
kettle kitchen boiling metal tool | book library reading paper goods | hammer garage building metal tool
apple market eating plant food | bed bedroom sleeping wood furniture | scarf closet wearing wool clothing
cow farm milking flesh animal | canoe river travelling wood vehicle | flute theatre playing wood instrument
bread kitchen eating plant food | pen office writing plastic tool | sofa lounge sitting cloth furniture
shovel garden digging metal tool | horse farm riding flesh animal | shirt closet wearing cloth clothing
bicycle street travelling metal vehicle | drum theatre playing leather instrument | map car finding paper goods
knife kitchen cutting metal tool | letter office reading paper goods | coat closet wearing wool clothing
carrot garden eating plant food | chair office sitting wood furniture | saw garage cutting metal tool
ball park playing rubber toy | bus street travelling metal vehicle | sheep farm shearing flesh animal
cup kitchen drinking clay dish | lamp bedroom lighting glass furniture | towel bathroom drying cloth goods
soap bathroom washing fat goods | fish river eating flesh animal | rake garden gathering metal tool
doll bedroom playing plastic toy | mug office drinking clay dish | boots closet wearing leather clothing
cake bakery eating plant food | truck street carrying metal vehicle | violin theatre playing wood instrument
pan kitchen frying metal dish | magazine lounge reading paper goods | sock closet wearing wool clothing
rope garage tying plant goods | bench park sitting wood furniture | goat farm milking flesh animal
mirror bathroom looking glass furniture | basket market carrying plant goods | bowl kitchen eating clay dish
kite park flying paper toy | raft river travelling wood vehicle | trumpet theatre playing metal instrument
cheese market eating fat food | stamp office sending paper goods | scissors office cutting metal tool
puppet theatre playing cloth toy | brush bathroom cleaning plastic tool | saddle farm riding leather goods
jar kitchen storing glass dish | belt closet wearing leather clothing | candle lounge lighting fat goods
tyre garage driving rubber goods | duck river eating flesh animal | swing park playing rubber toy
vase lounge storing clay dish | hose garden watering rubber tool | ticket theatre entering paper goods
pillow bedroom sleeping cloth goods | oar river rowing wood tool | marble park playing glass toy
butter bakery eating fat food | window office looking glass furniture | bucket farm carrying plastic tool
"""
RELATIONS = ("place", "use", "material", "kind")

#: relation -> questions about one thing
DIRECT: dict[str, tuple[str, ...]] = {
    "place": ("Where would you look for {x}?", "Where do people keep {x}?", "Where does {x} belong?"),
    "use": ("What is {x} used for?", "Why would somebody need {x}?"),
    "material": ("What is {x} made of?", "Which material do you need for {x}?"),
    "kind": ("What kind of thing is {x}?", "What would you call {x}?"),
}
#: relation -> what a thing with that value is like, to be joined by "and"
PROPERTY = {"place": "kept in the {v}", "use": "good for {v}", "material": "made of {v}", "kind": "a kind of {v}"}
#: relation -> what two things have in common
SAME = {
    "place": "in the same place as {x}",
    "use": "used like {x}",
    "material": "of the same material as {x}",
    "kind": "of the same kind as {x}",
}

_TEXT = re.compile(r"Question: ([^\n]+\?)\nChoices: ([^\n]+)\nAnswer: ([^\n]+)")


@lru_cache(maxsize=1)
def ontology() -> dict[str, dict[str, str]]:
    """thing -> relation -> value; the order is the order of fame (Zipf rank)."""
    rows = [row.split() for row in ONTOLOGY.replace("\n", "|").split("|") if row.strip()]
    return {thing: dict(zip(RELATIONS, values, strict=True)) for thing, *values in rows}


@cache
def values_of(relation: str) -> tuple[str, ...]:
    """Every value of a relation, each once."""
    return tuple(dict.fromkeys(facts[relation] for facts in ontology().values()))


def an(thing: str) -> str:
    """``a kettle``, ``an apple``."""
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _direct(dice: Dice, thing: str) -> tuple[str, str, list[str]]:
    """A question about one thing; the distractors are other values of the relation."""
    relation = dice.pick(RELATIONS)
    right = ontology()[thing][relation]
    others = [value for value in values_of(relation) if value != right]
    return dice.pick(DIRECT[relation]).format(x=an(thing)), right, others


def _joint(dice: Dice, thing: str) -> tuple[str, str, list[str]]:
    """What has both of two properties; the distractors have one of them where there are such things."""
    first, second = dice.sample(RELATIONS, 2)
    facts = ontology()[thing]
    has = [(facts[r], {x for x, f in ontology().items() if f[r] == facts[r]}) for r in (first, second)]
    both, one = has[0][1] & has[1][1], has[0][1] ^ has[1][1]
    near = dice.sample(sorted(one), min(len(one), 4))
    far = [x for x in ontology() if x not in both | one]
    stem = f"What is {PROPERTY[first].format(v=has[0][0])} and {PROPERTY[second].format(v=has[1][0])}?"
    return stem, thing, [*near, *dice.sample(far, 4 - len(near))]


def _same(dice: Dice, thing: str) -> tuple[str, str, list[str]] | None:
    """What shares a value with a thing: two facts have to be put together. Two distractors share another value."""
    relation, own = dice.pick(RELATIONS), ontology()[thing]
    alike = [x for x, facts in ontology().items() if facts[relation] == own[relation] and x != thing]
    if not alike:
        return None
    others = {x: facts for x, facts in ontology().items() if facts[relation] != own[relation]}
    near = [x for x, facts in others.items() if set(facts.values()) & set(own.values())]
    near = dice.sample(near, min(len(near), 2))
    far = dice.sample([x for x in others if x not in near], 4 - len(near))
    return f"What is {SAME[relation].format(x=an(thing))}?", dice.pick(alike), near + far


class NanoCommonsense(NanoTask):
    """72 things, four relations, things met with Zipf frequency. A share ``difficulty`` of the questions joins two
    facts: half of them name two properties, half ask what shares a value with a thing.

    A document::

        Question: What is kept in the kitchen and made of clay?
        Choices: knife, mug, kite, bowl, sheep
        Answer: bowl
    """

    name: ClassVar[str] = "nano-commonsense"
    family: ClassVar[str] = "Commonsense"
    answering = "choice"
    metric: ClassVar[str] = "accuracy"
    header: ClassVar[str] = "Question:"
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    max_new_tokens: ClassVar[int] = 12
    max_document_tokens: ClassVar[int] = 96
    fields = {"question": str, "choices": list, "answer": str}

    def draw(self, dice: Dice, difficulty: float) -> Record:
        thing = dice.zipf(tuple(ontology()), 0.8)
        made = None
        while made is None:
            joins = dice.chance(difficulty)
            made = (_joint if dice.chance(0.5) else _same)(dice, thing) if joins else _direct(dice, thing)
        stem, right, others = made
        return {"question": stem, "choices": dice.sample([right, *dice.sample(others, 4)], 5), "answer": right}

    def question(self, record: Record) -> str:
        """The stem with its choices in alphabetical order: shuffled choices do not make a new question."""
        return f"{record['question']} {', '.join(sorted(record['choices']))}"

    def render(self, record: Record) -> Document:
        body = f" {record['question']}\nChoices: {', '.join(record['choices'])}\nAnswer:"
        return Document(self.header, body, f" {record['answer']}")

    def read(self, text: str) -> Record:
        match = _TEXT.fullmatch(text)
        if not match:
            raise Malformed("no question" if not text.startswith("Question: ") else "no choices and answer")
        stem, listed, answer = match.groups()
        choices = listed.split(", ")
        if len(choices) != 5 or len(set(choices)) != 5 or not all(choices):
            raise Malformed("not five different choices")
        if answer not in choices:
            raise Malformed("answer is not among the choices")
        return {"question": stem, "choices": choices, "answer": answer}

    def choices(self, record: Record) -> list[str]:
        return [f" {choice}" for choice in record["choices"]]

    def gold(self, record: Record) -> str:
        return str(record["answer"])
