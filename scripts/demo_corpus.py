"""Pre-training text: short documents of the invented world, without any task label.

Four kinds of document: pairs of clauses joined the way running text joins them ("so ...", "perhaps ..."), facts that
spell out the taxonomy and the synonyms, stories, and loose sentences that show number, gender and tense. A pair that
occurs in the entailment task, or a story that occurs in the summarization task, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from demo_constructions import CONSTRUCTIONS
from demo_tasks import build_task, errand
from grammar import ENTAILED, FALSE, UNKNOWN, related_pairs
from lexicon import (
    EVERYTHING,
    GENERAL_OF,
    LEAVES,
    MIDDLE_OF,
    MIDDLES,
    PERSON_VERBS,
    SCALES,
    THING_VERBS,
    TOP_OF,
    article,
    past,
    plural,
)

Document = list[str]
# Words that join two clauses. An entailed clause often follows with no such word at all.
CONNECTIVES: dict[str, tuple[str, ...]] = {
    ENTAILED: ("so", "thus", "therefore", "hence"),
    UNKNOWN: ("maybe", "perhaps", "possibly", "or"),
    FALSE: ("not", "never"),
}
SHARES: dict[str, float] = {"joined": 0.6, "facts": 0.25, "story": 0.05, "loose": 0.1}

JOINED_SHARES: dict[str, float] = {
    "hypernym": 0.25,
    "membership": 0.3,
    "manner": 0.15,
    "modifier": 0.14,
    "state": 0.1,
    "role": 0.06,
}


def joined(rng: Random, forbidden: frozenset[str]) -> list[Document]:
    """Two clauses in a row, with a connective that fits the relation between them."""
    documents = []
    for first, second, relation, _ in related_pairs(rng, EVERYTHING, JOINED_SHARES):
        if f"{first} {second}" in forbidden:
            continue
        connective = rng.choice(CONNECTIVES[relation])
        bare = relation == ENTAILED and rng.random() < 0.25
        documents.append([first, second if bare else f"{connective} {second}"])
    return documents


def noun_fact(rng: Random) -> str:
    """One way of saying where a noun stands in the taxonomy, now and then where it does not."""
    leaf = rng.choice(LEAVES)
    middle = MIDDLE_OF[leaf]
    top = TOP_OF[middle]
    sister = rng.choice([other for other in LEAVES if MIDDLE_OF[other] == middle and other != leaf])
    stranger = rng.choice([other for other in MIDDLES if other != middle])
    one, group = f"{article(leaf)} {leaf}", plural(middle)
    facts = (
        f"{one} is {article(middle)} {middle}.",
        f"{one} is {article(top)} {top}.",
        f"every {leaf} is {article(middle)} {middle}.",
        f"{plural(leaf)} are {group}.",
        f"{plural(leaf)} are {plural(top)}.",
        f"{plural(leaf)}, {plural(sister)} and other {group}.",
        f"{article(middle)} {middle} is {article(top)} {top}.",
        f"no {leaf} is {article(stranger)} {stranger}.",
    )
    return rng.choice(facts)


def verb_fact(rng: Random) -> str:
    """A synonym of a verb, or what a manner verb is a manner of."""
    pair = rng.choice(THING_VERBS + PERSON_VERBS)
    low = rng.choice(tuple(GENERAL_OF))
    facts = (
        f"to {pair[0]} is to {pair[1]}.",
        f"to {pair[1]} is to {pair[0]}.",
        f"to {low} is to {GENERAL_OF[low]}.",
        f"who {past(low)} also {past(GENERAL_OF[low])}.",
    )
    return rng.choice(facts)


def adjective_fact(rng: Random) -> str:
    """A synonym or an opposite on one scale."""
    own, other = rng.sample(rng.choice(SCALES), 2)
    facts = (
        f"{own[0]} means {own[1]}.",
        f"{own[1]} means {own[0]}.",
        f"{rng.choice(own)} is not {rng.choice(other)}.",
        f"nobody is {rng.choice(own)} and {rng.choice(other)}.",
    )
    return rng.choice(facts)


def facts(rng: Random, forbidden: frozenset[str]) -> list[Document]:
    """Three unconnected facts: were they about one word, a masked word could be copied instead of remembered."""
    kinds = rng.choices((noun_fact, verb_fact, adjective_fact), (6, 1, 3), k=3)
    return [[kind(rng) for kind in kinds]]


def story(rng: Random, forbidden: frozenset[str]) -> list[Document]:
    """A story; half of them end with what it comes down to."""
    sentences, gist = errand(rng, EVERYTHING)
    if " ".join(sentences) in forbidden:
        return []
    return [[*sentences, f"in short, {gist}"] if rng.random() < 0.5 else sentences]


def loose(rng: Random, forbidden: frozenset[str]) -> list[Document]:
    """Two grammatical sentences of one construction."""
    rows = rng.choice(CONSTRUCTIONS)(rng, EVERYTHING)
    good = [text for text, acceptable in rows if acceptable == "1"]
    return [good] if good else []


KINDS = {"joined": joined, "facts": facts, "story": story, "loose": loose}


def forbidden_texts(seed: int) -> frozenset[str]:
    """Every labelled pair and every document of the tasks, as running text."""
    pairs = (f"{row[0]} {row[1]}" for rows in build_task("entailment", seed).values() for row in rows)
    documents = (row[0] for rows in build_task("summarization", seed).values() for row in rows)
    return frozenset([*pairs, *documents])


def documents(seed: int) -> Iterator[Document]:
    """Endless documents, mixed by `SHARES`."""
    rng = Random(f"corpus/{seed}")
    forbidden = forbidden_texts(seed)
    queues: dict[str, list[Document]] = {kind: [] for kind in SHARES}
    while True:
        kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
        while not queues[kind]:
            queues[kind] = KINDS[kind](rng, forbidden)
        yield queues[kind].pop()
