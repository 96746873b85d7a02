"""The four demo tasks, as rows of text and labels.

Every task is drawn from the grammar with its own seed. Rows of the training split use one half of the leaves, manner
verbs and scales, rows of the validation and test splits the other half, so a held-out row cannot be answered with word
relations learnt from the training labels. The upper nouns, names, places and function words are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from clauses import Phrase, maybe, render, thing_clause, vary
from demo_constructions import CONSTRUCTIONS, Row
from grammar import ENTAILED, related_pairs
from lexicon import (
    COLOURS,
    DAYS,
    MEN,
    MIDDLE_OF,
    PEOPLE,
    PLACES,
    THING_VERBS,
    Lexicon,
    article,
    is_a,
    past,
    plural,
    split_lexicon,
)

SIZES: dict[str, dict[str, int]] = {
    "entailment": {"train": 3000, "validation": 500, "test": 1500},
    "acceptability": {"train": 3000, "validation": 500, "test": 1500},
    "similarity": {"train": 3000, "validation": 500, "test": 1500},
    "summarization": {"train": 3000, "validation": 300, "test": 600},
}
COLUMNS: dict[str, Row] = {
    "entailment": ("sentence1", "sentence2", "label"),
    "acceptability": ("sentence", "label"),
    "similarity": ("sentence1", "sentence2", "score"),
    "summarization": ("document", "summary"),
}
# Mostly two changes at once, which pre-training text never has; groups of `composed` are the largest ones, too.
PHENOMENA_SHARES: dict[str, float] = {
    "composed": 0.42,
    "hypernym": 0.14,
    "manner": 0.12,
    "modifier": 0.1,
    "membership": 0.1,
    "state": 0.06,
    "role": 0.06,
}
COUNTS: tuple[str, ...] = ("one", "two", "three")


def entailment_rows(rng: Random, lexicon: Lexicon, training: bool) -> list[Row]:
    """One balanced group of labelled pairs; passives that carry a place are kept for validation and test."""
    return [
        (first, second, "entailment" if relation == ENTAILED else "not_entailment")
        for first, second, relation, _ in related_pairs(rng, lexicon, PHENOMENA_SHARES, passive_place=not training)
    ]


def acceptability_rows(rng: Random, lexicon: Lexicon, training: bool) -> list[Row]:
    """One balanced group of sentences from a random construction."""
    return rng.choice(CONSTRUCTIONS)(rng, lexicon)


def changed_noun(rng: Random, lexicon: Lexicon, noun: str) -> tuple[str, float]:
    """A noun at a random distance from `noun`, and how much of the meaning it keeps."""
    kind = rng.choices(("same", "up", "sister", "far"), (4, 3, 3, 2))[0]
    sisters = [leaf for leaf in lexicon.leaves if leaf != noun and MIDDLE_OF[leaf] == MIDDLE_OF[noun]]
    strangers = [leaf for leaf in lexicon.leaves if MIDDLE_OF[leaf] != MIDDLE_OF[noun]]
    return {
        "same": (noun, 1.0),
        "up": (MIDDLE_OF[noun], 0.7),
        "sister": (rng.choice(sisters), 0.4),
        "far": (rng.choice(strangers), 0.0),
    }[kind]


def similarity_rows(rng: Random, lexicon: Lexicon, training: bool) -> list[Row]:
    """A clause and an altered copy; the score weighs the parts that kept their meaning, rewording costs nothing."""
    before = replace(thing_clause(rng, rng.choice(lexicon.leaves)), place=rng.choice(PLACES))
    assert before.object is not None
    noun, kept_noun = changed_noun(rng, lexicon, before.object.noun)
    after, score = replace(before, object=replace(before.object, noun=noun)), 0.4 * kept_noun
    if rng.random() < 0.65:
        score += 0.2
    else:
        after = replace(after, subject=Phrase(rng.choice([name for name in PEOPLE if name != before.subject.noun])))
    if rng.random() < 0.65:
        score += 0.25
    else:
        others = [pair for pair in THING_VERBS if before.verb not in pair]
        after = replace(after, verb=rng.choice(rng.choice(others)))
    if rng.random() < 0.65:
        score += 0.15
    else:
        after = replace(after, place=rng.choice([place for place in PLACES if place != before.place]))
    if rng.random() < 0.15:
        after, score = replace(after, negated=True), 0.5 * score
    first, second = render(vary(rng, before, share=0.5)), render(vary(rng, after, share=0.5))
    return [(first, second, f"{5 * score:.2f}") if rng.random() < 0.5 else (second, first, f"{5 * score:.2f}")]


def errand(rng: Random, lexicon: Lexicon) -> tuple[list[str], str]:
    """A short story and its one-sentence gist.

    One person does the same kind of thing to two or three members of one category while someone else does something
    unrelated. The gist names the person, the general verb, how many and the category; none of the sentences does.
    """
    hero, other = rng.sample(PEOPLE, 2)
    place, pair = rng.choice(PLACES), rng.choice(THING_VERBS)
    leaves = rng.sample(same_category(rng, lexicon), rng.choice((2, 2, 3)))
    stranger = rng.choice([leaf for leaf in lexicon.leaves if MIDDLE_OF[leaf] != MIDDLE_OF[leaves[0]]])
    pronoun = "he" if hero in MEN else "she"
    story = [f"{hero} went to the {place}{rng.choice(('', ' on ' + rng.choice(DAYS)))}."]
    for leaf in leaves:
        story.append(f"{pronoun} {past(rng.choice(pair))} {coloured(rng, leaf)}.")
    aside = f"{other} {past(rng.choice(rng.choice(THING_VERBS)))} {coloured(rng, stranger)}."
    story.insert(rng.choice((0, 0, len(story))), aside)
    number = COUNTS[len(leaves) - 1]
    return story, f"{hero} {past(pair[0])} {number} {plural(MIDDLE_OF[leaves[0]])} in the {place}."


def same_category(rng: Random, lexicon: Lexicon) -> list[str]:
    """All leaves of one random category."""
    middle = MIDDLE_OF[rng.choice(lexicon.leaves)]
    return [leaf for leaf in lexicon.leaves if is_a(leaf, middle)]


def coloured(rng: Random, noun: str) -> str:
    """An indefinite noun phrase, sometimes with a colour."""
    words = [word for word in (maybe(rng, 0.3, COLOURS), noun) if word]
    return " ".join([article(words[0]), *words])


def summarization_rows(rng: Random, lexicon: Lexicon, training: bool) -> list[Row]:
    """A story and its gist."""
    story, gist = errand(rng, lexicon)
    return [(" ".join(story), gist)]


MAKERS: dict[str, Callable[[Random, Lexicon, bool], list[Row]]] = {
    "entailment": entailment_rows,
    "acceptability": acceptability_rows,
    "similarity": similarity_rows,
    "summarization": summarization_rows,
}


def groups(task: str, seed: int, training: bool) -> Iterator[list[Row]]:
    """Endless balanced groups of one task; the seed text keeps tasks and splits independent of each other."""
    rng = Random(f"{task}/{'train' if training else 'held out'}/{seed}")
    lexicon = split_lexicon()[0 if training else 1]
    while True:
        yield MAKERS[task](rng, lexicon, training)


def build_task(task: str, seed: int) -> dict[str, list[Row]]:
    """All three splits; no input occurs twice, in one split or in two."""
    seen: set[Row] = set()
    splits: dict[str, list[Row]] = {}
    sources = {"train": groups(task, seed, True)}
    sources["validation"] = sources["test"] = groups(task, seed, False)
    for split, size in SIZES[task].items():
        rows: list[Row] = []
        while len(rows) < size:
            group = next(sources[split])
            keys = [row[:-1] for row in group]
            if len(set(keys)) == len(keys) and not seen.intersection(keys):
                seen.update(keys)
                rows.extend(group)
        Random(f"{task}/{split}/order/{seed}").shuffle(rows)
        splits[split] = rows[:size]
    return splits


def to_tsv(task: str, rows: list[Row]) -> str:
    """The rows as tab-separated text with a header and a running index."""
    lines = ["\t".join(("index", *COLUMNS[task]))]
    lines += ["\t".join((str(index), *row)) for index, row in enumerate(rows)]
    return "\n".join(lines) + "\n"
