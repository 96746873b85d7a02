"""The seeded grammar: clauses, the sentences that express them, and the relations that hold between clauses.

A `Clause` is a meaning; `render` turns it into one English sentence. The relation functions (`hypernym`,
`membership`, ...) return groups of clause pairs with the relation that holds. A group is built so that each of its
words occurs on the same side equally often with and without entailment: the words alone say nothing about the label,
neither does their overlap, and a classifier has to combine the two sentences.

All randomness comes from the `random.Random` that the caller passes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from lexicon import (
    COLOURS,
    GENERAL_OF,
    MIDDLE_OF,
    MIDDLES,
    PEOPLE,
    PERSON_VERBS,
    PLACES,
    SYNONYM,
    THING_VERBS,
    TOP_OF,
    TOPS,
    Lexicon,
    article,
    is_a,
    participle,
    past,
    third,
)

ENTAILED, UNKNOWN, FALSE = "entailed", "unknown", "false"
QUANTIFIERS = ("every", "some", "no")


@dataclass(frozen=True)
class Phrase:
    """A noun phrase; an empty determiner marks a person's name."""

    noun: str
    det: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Clause:
    """Who did (or was) what, to which thing, where. `verb` is a lemma; "be" takes `state`, an adjective."""

    subject: Phrase
    verb: str
    object: Phrase | None = None
    state: str = ""
    place: str = ""
    negated: bool = False
    passive: bool = False


Relation = tuple[Clause, Clause, str]


def phrase_text(phrase: Phrase) -> str:
    """Write a noun phrase, choosing between "a" and "an"."""
    words = [word for word in (phrase.colour, phrase.noun) if word]
    if phrase.det == "a":
        return " ".join([article(words[0]), *words])
    return " ".join([phrase.det, *words] if phrase.det else words)


def predicate(clause: Clause, present: bool) -> str:
    """The verb group of an active sentence, negated if the clause is."""
    if clause.verb == "be":
        be = "is" if present else "was"
        return f"{be} not {clause.state}" if clause.negated else f"{be} {clause.state}"
    if clause.negated:
        return f"{'does' if present else 'did'} not {clause.verb}"
    return third(clause.verb) if present else past(clause.verb)


def passive_text(clause: Clause) -> str:
    """The passive sentence; an indefinite object under negation becomes "no ...", which keeps the meaning."""
    assert clause.object is not None
    theme, be = clause.object, "was"
    if clause.negated and theme.det == "a":
        theme = replace(theme, det="no")
    elif clause.negated:
        be = "was not"
    return f"{phrase_text(theme)} {be} {participle(clause.verb)} by {phrase_text(clause.subject)}"


def render(clause: Clause, present: bool = False) -> str:
    """Write the clause as one lower-case sentence with its full stop."""
    if clause.passive and clause.object is not None:
        text = passive_text(clause)
    else:
        parts = [phrase_text(clause.subject), predicate(clause, present)]
        if clause.object is not None:
            parts.append(phrase_text(clause.object))
        text = " ".join(parts)
    return f"{text} in the {clause.place}." if clause.place else f"{text}."


def maybe(rng: Random, share: float, options: tuple[str, ...]) -> str:
    """One of `options` with probability `share`, else the empty string."""
    return rng.choice(options) if rng.random() < share else ""


def person(rng: Random) -> Phrase:
    """A random person."""
    return Phrase(rng.choice(PEOPLE))


def thing_clause(rng: Random, noun: str) -> Clause:
    """A person acting on an indefinite `noun`."""
    verb = rng.choice(rng.choice(THING_VERBS))
    return Clause(person(rng), verb, Phrase(noun, "a", maybe(rng, 0.2, COLOURS)), place=maybe(rng, 0.2, PLACES))


def quantified_clause(rng: Random, noun: str, det: str, manners: tuple[str, ...]) -> Clause:
    """A quantified `noun` doing something intransitive."""
    verb = rng.choice(manners) if rng.random() < 0.5 else GENERAL_OF[rng.choice(manners)]
    return Clause(Phrase(noun, det, maybe(rng, 0.2, COLOURS)), verb, place=maybe(rng, 0.2, PLACES))


def noun_context(rng: Random, lexicon: Lexicon, upward: bool) -> Callable[[str], Clause]:
    """A clause with a gap for a noun; `upward` tells whether a more general noun keeps it true."""
    if rng.random() < 0.6:
        thing = replace(thing_clause(rng, "x"), negated=not upward)
        assert thing.object is not None
        gap = thing.object
        return lambda noun: replace(thing, object=replace(gap, noun=noun))
    det = "some" if upward else rng.choice(("every", "no"))
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
    """A clause with a gap for an intransitive verb; "every" is upward here, as the gap is outside its restrictor."""
    place = maybe(rng, 0.2, PLACES)
    if rng.random() < 0.6:
        subject, negated = person(rng), not upward
    else:
        det = rng.choice(("every", "some")) if upward else "no"
        subject, negated = Phrase(rng.choice(lexicon.leaves + MIDDLES), det), False
    return lambda verb: Clause(subject, verb, place=place, negated=negated)


def manner(rng: Random, lexicon: Lexicon) -> list[Relation]:
    """sprinted -> ran, and did not run -> did not sprint."""
    low = rng.choice(lexicon.manners)
    return both_ways(rng, low, GENERAL_OF[low], lambda upward: manner_context(rng, lexicon, upward))


def any_noun(rng: Random, lexicon: Lexicon) -> str:
    """A noun from any level of the taxonomy, mostly a leaf."""
    return rng.choice(rng.choices((lexicon.leaves, MIDDLES, TOPS), (6, 3, 1))[0])


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


PHENOMENA: dict[str, tuple[Callable[[Random, Lexicon], list[Relation]], float]] = {
    "hypernym": (hypernym, 0.25),
    "membership": (membership, 0.27),
    "manner": (manner, 0.12),
    "modifier": (modifier, 0.12),
    "state": (state, 0.12),
    "role": (role, 0.12),
}


def vary(rng: Random, clause: Clause, passive_place: bool = True, share: float = 0.3) -> Clause:
    """Reword a clause without changing its meaning: a synonym for its verb, the passive, each with chance `share`.

    `passive_place` says whether a passive may also carry a place; entailment's training rows never combine the two.
    """
    if clause.object is None:
        return clause
    if rng.random() < share:
        clause = replace(clause, verb=SYNONYM[clause.verb])
    if clause.object.det and rng.random() < share and (passive_place or not clause.place):
        clause = replace(clause, passive=True)
    return clause


def related_pairs(rng: Random, lexicon: Lexicon, passive_place: bool = True) -> list[tuple[str, str, str, str]]:
    """One balanced group as text: (first sentence, second sentence, relation, phenomenon)."""
    name = rng.choices(tuple(PHENOMENA), [share for _, share in PHENOMENA.values()])[0]
    rows = []
    for before, after, relation in PHENOMENA[name][0](rng, lexicon):
        if name != "role":
            before, after = vary(rng, before, passive_place), vary(rng, after, passive_place)
        rows.append((render(before), render(after), relation, name))
    return rows
