"""Clauses of the invented world and the sentences that express them.

A `Clause` is a meaning; `render` turns it into one English sentence, and `vary` rewords it without a change of meaning.
All randomness comes from the `random.Random` that the caller passes in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from lexicon import (
    COLOURS,
    GENERAL_OF,
    MIDDLES,
    PEOPLE,
    PLACES,
    SYNONYM,
    THING_VERBS,
    TOPS,
    Lexicon,
    article,
    participle,
    past,
)


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


def phrase_text(phrase: Phrase) -> str:
    """Write a noun phrase, choosing between "a" and "an"."""
    words = [word for word in (phrase.colour, phrase.noun) if word]
    if phrase.det == "a":
        return " ".join([article(words[0]), *words])
    return " ".join([phrase.det, *words] if phrase.det else words)


def predicate(clause: Clause) -> str:
    """The verb group of an active sentence, negated if the clause is."""
    if clause.verb == "be":
        return f"was not {clause.state}" if clause.negated else f"was {clause.state}"
    if clause.negated:
        return f"did not {clause.verb}"
    return past(clause.verb)


def passive_text(clause: Clause) -> str:
    """The passive sentence; an indefinite object under negation becomes "no ...", which keeps the meaning."""
    assert clause.object is not None
    theme, be = clause.object, "was"
    if clause.negated and theme.det == "a":
        theme = replace(theme, det="no")
    elif clause.negated:
        be = "was not"
    return f"{phrase_text(theme)} {be} {participle(clause.verb)} by {phrase_text(clause.subject)}"


def render(clause: Clause) -> str:
    """Write the clause as one lower-case sentence with its full stop."""
    if clause.passive and clause.object is not None:
        text = passive_text(clause)
    else:
        parts = [phrase_text(clause.subject), predicate(clause)]
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


def any_noun(rng: Random, lexicon: Lexicon) -> str:
    """A noun from any level of the taxonomy, mostly a leaf."""
    return rng.choice(rng.choices((lexicon.leaves, MIDDLES, TOPS), (6, 3, 1))[0])


def vary(rng: Random, clause: Clause, passive_place: bool = True, share: float = 0.3) -> Clause:
    """Reword a clause without changing its meaning: a synonym for its verb, the passive, each with chance `share`.

    `passive_place` says whether a passive may also carry a place; entailment's training rows never combine the two.
    """
    theme = clause.object
    if theme is None:
        return clause
    if rng.random() < share:
        clause = replace(clause, verb=SYNONYM[clause.verb])
    if theme.det and rng.random() < share and (passive_place or not clause.place):
        clause = replace(clause, passive=True)
    return clause


def specific_act(rng: Random, lexicon: Lexicon, negated: bool) -> Clause:
    """A person acting on a thing, in full detail: `generalised` can relax its noun, colour and place."""
    clause = thing_clause(rng, rng.choice(lexicon.leaves))
    assert clause.object is not None
    detailed = replace(clause.object, colour=rng.choice(COLOURS))
    return replace(clause, object=detailed, place=rng.choice(PLACES), negated=negated)


def specific_crowd(rng: Random, lexicon: Lexicon, det: str) -> Clause:
    """A quantified sentence in full detail: noun, colour, place and manner."""
    subject = Phrase(rng.choice(lexicon.leaves), det, rng.choice(COLOURS))
    return Clause(subject, rng.choice(lexicon.manners), place=rng.choice(PLACES))


def generalised(clause: Clause, slot: str, hypernyms: dict[str, str]) -> Clause:
    """The clause with one slot relaxed to something more general, or to nothing."""
    if slot == "place":
        return replace(clause, place="")
    if slot == "manner":
        return replace(clause, verb=GENERAL_OF[clause.verb])
    phrase = clause.object or clause.subject
    relaxed = replace(phrase, colour="") if slot == "colour" else replace(phrase, noun=hypernyms[phrase.noun])
    return replace(clause, object=relaxed) if clause.object else replace(clause, subject=relaxed)
