"""Constructions for the acceptability task: small groups of good sentences and minimally different bad ones.

Within a group every word form occurs in as many good as bad sentences, so only the combination of words, or their
order, tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from clauses import any_noun, maybe
from lexicon import COLOURS, MEN, PEOPLE, PLACES, THING_VERBS, Lexicon, article, past, plural, third

Row = tuple[str, ...]


def ending(rng: Random) -> str:
    """An optional place and the full stop."""
    place = maybe(rng, 0.4, PLACES)
    return f" in the {place}." if place else "."


def agreement(rng: Random, lexicon: Lexicon) -> list[Row]:
    """Number agreement of subject and verb: the same four words in two good and two bad sentences."""
    noun, verb = any_noun(rng, lexicon), rng.choice(lexicon.manners)
    colour = maybe(rng, 0.4, COLOURS)
    head = f"the {colour} " if colour else "the "
    return [
        (
            f"{head}{plural(noun) if many else noun} {third(verb) if single else verb}{ending(rng)}",
            str(int(many != single)),
        )
        for many in (False, True)
        for single in (False, True)
    ]


def auxiliary(rng: Random, lexicon: Lexicon) -> list[Row]:
    """ "did not" wants the base form, a bare singular subject the past form."""
    verb = rng.choice(rng.choice(THING_VERBS))
    rows: list[Row] = []
    for helper in ("", "did not "):
        for form in (verb, past(verb)):
            noun = rng.choice(lexicon.leaves)
            text = f"{rng.choice(PEOPLE)} {helper}{form} {article(noun)} {noun}{ending(rng)}"
            rows.append((text, str(int((form == verb) == bool(helper)))))
    return rows


def counting(rng: Random, lexicon: Lexicon) -> list[Row]:
    """A numeral wants the plural, "every" and "one" the singular."""
    noun = rng.choice(lexicon.leaves)
    rows: list[Row] = []
    for det, many in ((rng.choice(("every", "one")), False), (rng.choice(("two", "three")), True)):
        for form in (noun, plural(noun)):
            verb = past(rng.choice(rng.choice(THING_VERBS)))
            rows.append((f"{rng.choice(PEOPLE)} {verb} {det} {form}{ending(rng)}", str(int((form != noun) == many))))
    return rows


def reflexive(rng: Random, lexicon: Lexicon) -> list[Row]:
    """A reflexive pronoun takes the gender of the person it goes back to."""
    rows: list[Row] = []
    for name, pronoun in ((n, p) for n in rng.sample(PEOPLE, 2) for p in ("himself", "herself")):
        verb = past(rng.choice(("wash", "clean", "draw", "sketch", "hide", "watch")))
        rows.append((f"{name} {verb} {pronoun}{ending(rng)}", str(int((name in MEN) == (pronoun == "himself")))))
    return rows


def word_order(rng: Random, lexicon: Lexicon) -> list[Row]:
    """Two good sentences and, of the same words, two scrambled ones."""
    rows: list[Row] = []
    for good in (True, False, True, False):
        noun, colour = rng.choice(lexicon.leaves), rng.choice(COLOURS)
        name, verb = rng.choice(PEOPLE), past(rng.choice(rng.choice(THING_VERBS)))
        det, tail = article(colour), ending(rng)
        orders = (
            f"{name} {verb} {det} {noun} {colour}",
            f"{name} {det} {colour} {noun} {verb}",
            f"{verb} {name} {det} {colour} {noun}",
            f"{name} {verb} {colour} {det} {noun}",
        )
        text = f"{name} {verb} {det} {colour} {noun}" if good else rng.choice(orders)
        rows.append((text + tail, str(int(good))))
    return rows


CONSTRUCTIONS: tuple[Callable[[Random, Lexicon], list[Row]], ...] = (
    agreement,
    auxiliary,
    counting,
    reflexive,
    word_order,
)
