"""Words of the demo's invented world, and the facts that hold among them.

Everything the demo's pre-training text and its four tasks can talk about is listed here: a three-level taxonomy of
nouns (poodle -> dog -> animal), verbs with synonyms or hypernyms, adjectives in antonym groups, people and places.
The lists are small on purpose. A backbone of under a million weights has to learn all of these relations from
running text within minutes on one core.
"""

from __future__ import annotations

from dataclasses import dataclass


def words(text: str) -> tuple[str, ...]:
    """The words of a blank-separated list."""
    return tuple(text.split())


# top -> middle -> leaves. All nouns take a plain "s" in the plural, so number is one suffix for every tokenizer.
TAXONOMY: dict[str, dict[str, str]] = {
    "animal": {
        "dog": "poodle beagle terrier spaniel collie setter",
        "bird": "robin sparrow eagle parrot falcon raven",
    },
    "food": {
        "fruit": "apple pear mango lemon melon fig",
        "vegetable": "carrot turnip onion leek pepper parsnip",
    },
    "plant": {
        "flower": "tulip rose orchid violet dahlia marigold",
        "tree": "oak maple willow pine elm cedar",
    },
    "object": {
        "tool": "hammer wrench chisel drill shovel rake",
        "vehicle": "truck wagon tractor van scooter sedan",
    },
}

MEN: tuple[str, ...] = words("tom adam ben carl david eric frank george")
WOMEN: tuple[str, ...] = words("anna beth clara diana emma fiona grace helen")
PEOPLE: tuple[str, ...] = MEN + WOMEN
PLACES: tuple[str, ...] = words("kitchen garden market park school office barn forest")
DAYS: tuple[str, ...] = words("monday tuesday wednesday thursday friday saturday sunday")
COLOURS: tuple[str, ...] = words("red blue green yellow black white")

# Two sides of a scale; words on one side are synonyms, words across are contradictory.
SCALES: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("big", "large"), ("small", "little")),
    (("happy", "glad"), ("sad", "gloomy")),
    (("fast", "quick"), ("slow", "sluggish")),
    (("old", "aged"), ("young", "youthful")),
    (("loud", "noisy"), ("quiet", "silent")),
    (("strong", "sturdy"), ("weak", "feeble")),
)

# Transitive verbs whose object is a thing, in pairs of synonyms; then verbs between two people, likewise.
THING_VERBS: tuple[tuple[str, str], ...] = (
    ("buy", "purchase"),
    ("find", "discover"),
    ("wash", "clean"),
    ("hide", "conceal"),
    ("sketch", "draw"),
    ("watch", "observe"),
)
PERSON_VERBS: tuple[tuple[str, str], ...] = (
    ("chase", "pursue"),
    ("help", "assist"),
    ("greet", "welcome"),
    ("teach", "instruct"),
)
# Intransitive verbs: a general one, and the particular ways of doing it.
MANNERS: dict[str, str] = {
    "run": "sprint jog dash race",
    "walk": "stroll march wander hike",
    "sleep": "nap doze snooze slumber",
    "speak": "whisper shout mumble chat",
}

# (past, participle) of the verbs that do not follow the rules in `past`.
IRREGULAR: dict[str, tuple[str, str]] = {
    "buy": ("bought", "bought"),
    "find": ("found", "found"),
    "hide": ("hid", "hidden"),
    "draw": ("drew", "drawn"),
    "teach": ("taught", "taught"),
    "run": ("ran", "run"),
    "sleep": ("slept", "slept"),
    "speak": ("spoke", "spoken"),
}
DOUBLING: frozenset[str] = frozenset({"jog", "nap", "chat"})


@dataclass(frozen=True)
class Lexicon:
    """The part of the world that one split may use.

    Tasks hold out leaves, manner verbs and scales: what was learnt about a held-out word can then only come from
    pre-training, never from the labelled training rows.
    """

    leaves: tuple[str, ...]
    manners: tuple[str, ...]
    scales: tuple[tuple[tuple[str, str], tuple[str, str]], ...]


MIDDLE_OF: dict[str, str] = {
    leaf: middle for middles in TAXONOMY.values() for middle, leaves in middles.items() for leaf in leaves.split()
}
TOP_OF: dict[str, str] = {middle: top for top, middles in TAXONOMY.items() for middle in middles}
LEAVES: tuple[str, ...] = tuple(MIDDLE_OF)
MIDDLES: tuple[str, ...] = tuple(TOP_OF)
TOPS: tuple[str, ...] = tuple(TAXONOMY)
GENERAL_OF: dict[str, str] = {manner: verb for verb, manners in MANNERS.items() for manner in manners.split()}
SYNONYM: dict[str, str] = {
    a: b for first, second in THING_VERBS + PERSON_VERBS for a, b in ((first, second), (second, first))
}

EVERYTHING = Lexicon(LEAVES, tuple(GENERAL_OF), SCALES)


def split_lexicon() -> tuple[Lexicon, Lexicon]:
    """Return the words for training rows and the (disjoint) words for validation and test rows."""
    leaves = [leaf for i, leaf in enumerate(LEAVES) if i % 2 == 0], [leaf for i, leaf in enumerate(LEAVES) if i % 2]
    manners = tuple(GENERAL_OF)
    parts = [Lexicon(tuple(leaves[part]), manners[part::2], SCALES[part::2]) for part in (0, 1)]
    return parts[0], parts[1]


def is_a(noun: str, other: str) -> bool:
    """Whether everything that is a `noun` is also an `other` (true of a word and itself)."""
    chain = {noun, MIDDLE_OF.get(noun, "")}
    chain |= {TOP_OF.get(word, "") for word in chain}
    return other in chain


def plural(noun: str) -> str:
    """Plural of a noun; every noun of this world is regular."""
    return noun + "s"


def third(verb: str) -> str:
    """Third person singular, present tense."""
    return verb + ("es" if verb.endswith(("s", "x", "sh", "ch")) else "s")


def past(verb: str) -> str:
    """Past tense."""
    if verb in IRREGULAR:
        return IRREGULAR[verb][0]
    if verb in DOUBLING:
        return verb + verb[-1] + "ed"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def participle(verb: str) -> str:
    """Past participle, as the passive needs it."""
    return IRREGULAR[verb][1] if verb in IRREGULAR else past(verb)


def article(word: str) -> str:
    """The indefinite article that goes before `word`."""
    return "an" if word[0] in "aeiou" else "a"
