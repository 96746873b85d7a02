"""The seeded grammar: which relations hold between the clauses of the invented world.

The relation functions (`hypernym`, `membership`, ...) return groups of clause pairs with the relation that holds. A
group is built so that each of its words occurs on the same side equally often with and without entailment: the words
alone say nothing about the label, neither does their overlap, and a classifier has to combine the two sentences.

All randomness comes from the `random.Random` that the caller passes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from clauses import (
    Clause,
    Phrase,
    any_noun,
    generalised,
    maybe,
    person,
    quantified_clause,
    render,
    specific_act,
    specific_crowd,
    thing_clause,
    vary,
)
from lexicon import (
    COLOURS,
    GENERAL_OF,
    MIDDLE_OF,
    MIDDLES,
    PEOPLE,
    PERSON_VERBS,
    PLACES,
    SYNONYM,
    TOP_OF,
    Lexicon,
    is_a,
)

ENTAILED, UNKNOWN, FALSE = "entailed", "unknown", "false"


# Whether a quantified sentence stays true when its noun, and when its verb phrase, is made more general.
QUANTIFIERS: dict[str, tuple[bool, bool]] = {
    "some": (True, True),
    "no": (False, False),
    "every": (False, True),
    "not every": (True, False),
}
Relation = tuple[Clause, Clause, str]


def noun_context(rng: Random, lexicon: Lexicon, upward: bool) -> Callable[[str], Clause]:
    """A clause with a gap for a noun; `upward` tells whether a more general noun keeps it true."""
    if rng.random() < 0.7:
        thing = replace(thing_clause(rng, "x"), negated=not upward)
        assert thing.object is not None
        gap = thing.object
        return lambda noun: replace(thing, object=replace(gap, noun=noun))
    det = rng.choice([det for det, (noun_up, _) in QUANTIFIERS.items() if noun_up == upward])
    frame = quantified_clause(rng, "x", det, lexicon.manners)
    return lambda noun: replace(frame, subject=replace(frame.subject, noun=noun))


def generalise(rng: Random, leaf: str) -> str:
    """A hypernym of `leaf`: mostly the next one up."""
    return MIDDLE_OF[leaf] if rng.random() < 0.7 else TOP_OF[MIDDLE_OF[leaf]]


def both_ways(rng: Random, low: str, high: str, context: Callable[[bool], Callable[[str], Clause]]) -> list[Relation]:
    """The four pairs of a more particular and a more general word, in upward and in downward contexts."""
    pairs = []
    for upward in (True, False):
        first, second = (low, high) if upward else (high, low)
        clause = context(upward)
        pairs.append((clause(first), clause(second), ENTAILED))
        clause = context(upward)
        pairs.append((clause(second), clause(first), UNKNOWN))
    return pairs


def hypernym(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """poodle -> dog in upward contexts, dog -> poodle in downward ones; never the reverse."""
    low = rng.choice(lexicon.leaves)
    return both_ways(rng, low, generalise(rng, low), lambda upward: noun_context(rng, lexicon, upward))


def membership(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """poodle -> dog, tulip -> flower, but neither poodle -> flower nor tulip -> dog."""
    first, second = rng.choice(lexicon.leaves), rng.choice(lexicon.leaves)
    while MIDDLE_OF[first] == MIDDLE_OF[second]:
        second = rng.choice(lexicon.leaves)
    uppers = [MIDDLE_OF[first], MIDDLE_OF[second]]
    if rng.random() < 0.3 and TOP_OF[uppers[0]] != TOP_OF[uppers[1]]:
        uppers = [TOP_OF[upper] for upper in uppers]
    pairs = []
    for leaf in (first, second):
        for upper in uppers:
            upward = rng.random() < 0.7
            clause = noun_context(rng, lexicon, upward)
            sides = (leaf, upper) if upward else (upper, leaf)
            pairs.append((clause(sides[0]), clause(sides[1]), ENTAILED if is_a(leaf, upper) else UNKNOWN))
    return pairs


def manner_context(rng: Random, lexicon: Lexicon, upward: bool) -> Callable[[str], Clause]:
    """A clause with a gap for an intransitive verb; `upward` tells whether a more general verb keeps it true."""
    place = maybe(rng, 0.2, PLACES)
    if rng.random() < 0.6:
        subject, negated = person(rng), not upward
    else:
        det = rng.choice([det for det, (_, verb_up) in QUANTIFIERS.items() if verb_up == upward])
        subject, negated = Phrase(rng.choice(lexicon.leaves + MIDDLES), det), False
    return lambda verb: Clause(subject, verb, place=place, negated=negated)


def manner(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """sprinted -> ran, and did not run -> did not sprint."""
    low = rng.choice(lexicon.manners)
    return both_ways(rng, low, GENERAL_OF[low], lambda upward: manner_context(rng, lexicon, upward))


def modifier(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """A colour or a place may be dropped in upward contexts and added in downward ones."""

    def coloured(upward: bool) -> Callable[[str], Clause]:
        clause = noun_context(rng, lexicon, upward)(any_noun(rng, lexicon))
        if clause.object is not None:
            gap = clause.object
            return lambda colour: replace(clause, object=replace(gap, colour=colour))
        return lambda colour: replace(clause, subject=replace(clause.subject, colour=colour))

    def placed(upward: bool) -> Callable[[str], Clause]:
        clause = manner_context(rng, lexicon, upward)(rng.choice(lexicon.manners))
        return lambda place: replace(clause, place=place)

    if rng.random() < 0.6:
        return both_ways(rng, rng.choice(COLOURS), "", coloured)
    return both_ways(rng, rng.choice(PLACES), "", placed)


def state(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """was big -> was not small, but not was big -> was not large; synonyms keep the overlap of both cases equal."""
    sides = rng.choice(lexicon.scales)
    pairs = []
    for own, other in (sides, sides[::-1]):
        for target, relation in ((other, ENTAILED), (own, FALSE)):
            subject = person(rng) if rng.random() < 0.5 else Phrase(any_noun(rng, lexicon), "the")
            index = rng.randrange(2)
            word = target[rng.randrange(2)] if target is other else target[1 - index]
            before = Clause(subject, "be", state=own[index])
            after = replace(before, state=word, negated=True)
            pairs.append((after, before, relation) if rng.random() < 0.3 else (before, after, relation))
    return pairs


def role(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """Passives and synonyms keep who did what to whom; swapping the two people does not."""
    pairs = []
    for swapped in (False, True, False, True):
        first, second = (Phrase(name) for name in rng.sample(PEOPLE, 2))
        verb = rng.choice(rng.choice(PERSON_VERBS))
        passive = rng.random() < 0.5
        before = Clause(first, verb, second, place=maybe(rng, 0.1, PLACES), passive=passive)
        after = replace(before, subject=second, object=first) if swapped else before
        if rng.random() < 0.7:
            after = replace(after, passive=not passive)
        else:
            after = replace(after, verb=SYNONYM[verb])
        pairs.append((before, after, UNKNOWN if swapped else ENTAILED))
    return pairs


# Which of two changes are sound. Twice both, so that half of the pairs are entailed.
SOUNDNESS = ((True, True), (True, True), (True, False), (False, True))


def composed(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """Two changes at once, entailed if each goes the right way for its place in the sentence.

    An act has one polarity throughout, so one change is of the noun, which alters no length. A quantified sentence has
    one for its noun and one for its verb phrase; over the four quantifiers, every look is as often sound as not.
    """
    frames: list[tuple[Callable[[], Clause], tuple[bool, bool]]]
    if rng.random() < 0.6:
        slots = ("noun", rng.choice(("colour", "place")))
        frames = [(partial(specific_act, rng, lexicon, not upward), (upward, upward)) for upward in (True, False)]
    else:
        slots = (rng.choice(("noun", "colour")), rng.choice(("place", "manner")))
        frames = [(partial(specific_crowd, rng, lexicon, det), polarity) for det, polarity in QUANTIFIERS.items()]
    hypernyms = {leaf: generalise(rng, leaf) for leaf in lexicon.leaves}
    absent = [slot for slot in ("colour", "place") if slot not in slots and rng.random() < 0.8]
    pairs = []
    for frame, polarity in frames:
        for sound in SOUNDNESS:
            clause = frame()
            for slot in absent:
                clause = generalised(clause, slot, hypernyms)
            pairs.append(changed(clause, slots, polarity, sound, hypernyms))
    return pairs


def changed(
    clause: Clause,
    slots: tuple[str, str],
    polarity: tuple[bool, bool],
    sound: tuple[bool, bool],
    hypernyms: dict[str, str],
) -> Relation:
    """The pair that relaxes each slot on one side: after the step where that is sound, before it where it is not."""
    before = after = clause
    for slot, upward, right in zip(slots, polarity, sound, strict=True):
        if right == upward:
            after = generalised(after, slot, hypernyms)
        else:
            before = generalised(before, slot, hypernyms)
    return before, after, ENTAILED if all(sound) else UNKNOWN


PHENOMENA: dict[str, Callable[[Random, Lexicon], list[Relation]]] = {
    "hypernym": hypernym,
    "membership": membership,
    "manner": manner,
    "modifier": modifier,
    "state": state,
    "role": role,
    "composed": composed,
}


def related_pairs(
    rng: Random, lexicon: Lexicon, shares: dict[str, float], passive_place: bool = True
) -> list[tuple[str, str, str, str]]:
    """One balanced group as text: (first sentence, second sentence, relation, phenomenon).

    `shares` weighs the groups of each phenomenon.
    """
    name = rng.choices(tuple(shares), tuple(shares.values()))[0]
    rows = []
    for before, after, relation in PHENOMENA[name](rng, lexicon):
        if name != "role":
            before, after = vary(rng, before, passive_place), vary(rng, after, passive_place)
        rows.append((render(before), render(after), relation, name))
    return rows
