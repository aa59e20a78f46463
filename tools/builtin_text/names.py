"""Invented names and literal values for texts about facts, kept apart by name space: train, validation, test, background.

A coined word belongs to exactly one space, by its checksum, and every name contains a coined word (or, for a
restaurant, is a pair of words that is assigned as a whole). So no name of one space can occur in another.
"""

from collections.abc import Callable
from random import Random
from zlib import crc32

Maker = Callable[[Random, str], str]

_SPACES: dict[str, range] = {
    "train": range(1),
    "validation": range(1, 2),
    "test": range(2, 3),
    "background": range(3, 8),
}
_PARTS = 8


def words(text: str) -> list[str]:
    """The words of a table in one line."""
    return text.split()


_STARTS = words(
    "Bal Bren Cor Dal Dor Fen Gal Gor Hal Hes Jor Kal Kes Lan Lor Mal Mer Nal Nor Pel Per Quil Ras Rol Sel Sor Tal Tor "
    "Ul Val Ver Vol Wal Wes Yal Yor Zan Zel Bru Cra Dre Fli Gru Kri Plo Tra Stra Shen Ost Ing Arv Elm"
)
_MIDDLES = words("a e i o u an en in or al ar is ov um")
_CITY = words("burg ton ford mere stad vik dale port by ness")
_COUNTRY = words("dia land stan nora mark via")
_SURNAME = words("sen man ski dez ner vard ley quist ton lund")
_MALE = words("do rus ran rik lor bert mond")
# All of these end in a or e, and no male name does, so a name determines the pronoun.
_FEMALE = words("la ria lina dora nelle wyne")
_FIRM = words("tex dyne corp nova tron")
_PLAIN = words("no ro ta la mi ven dor rek")

_ADJECTIVES = words(
    "Amber Silent Golden Crooked Hidden Copper Scarlet Frozen Quiet Broken Rusty Wandering Silver Green Velvet Lucky "
    "Hungry Little Merry Salty Wooden Painted Sleepy Humble Royal Smoky Sunny Twin"
)
_NOUNS = words(
    "Gate Harbour Lantern Orchard River Clock Mirror Bridge Garden Letter Shadow Forest Island Window Castle Road Mask "
    "Crown Feather Stone"
)
_TABLEWARE = words(
    "Fork Spoon Kettle Plate Barrel Anchor Goose Pepper Oven Table Ladle Olive Turnip Trout Bell Cup Lamb Radish Cellar "
    "Pear Rooster Teapot"
)


def belongs(text: str, space: str) -> bool:
    """Whether a coined word, or a whole name of common words, is in the name space."""
    return crc32(text.encode()) % _PARTS in _SPACES[space]


def coin(rng: Random, space: str, endings: list[str] = _PLAIN) -> str:
    """A capitalised invented word of the name space."""
    while True:
        word = rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(endings)
        if belongs(word, space):
            return word


def person(rng: Random, space: str) -> str:
    """A given name and a surname; sometimes a middle initial."""
    given = coin(rng, space, rng.choice((_MALE, _FEMALE)))
    initial = rng.choice("ABCDEFGHJKLMNPRSTW") + ". " if rng.random() < 0.1 else ""
    return f"{given} {initial}{coin(rng, space, _SURNAME)}"


def pronoun(name: str, kind: str) -> str:
    """The pronoun for a name of this kind; a given name in a or e is a woman's."""
    if kind != "person":
        return "it"
    return "she" if name.split()[0][-1] in "ae" else "he"


def dish(rng: Random, space: str) -> str:
    """A dish that is named after a place."""
    return f"{coin(rng, space)} {rng.choice(('stew', 'pie', 'soup', 'cake', 'salad', 'bread', 'curry', 'pudding'))}"


def title(rng: Random, space: str) -> str:
    """The title of a book, film or album."""
    adjective, noun, place = rng.choice(_ADJECTIVES), rng.choice(_NOUNS), coin(rng, space, rng.choice((_PLAIN, _CITY)))
    forms = f"The {noun} of {place}", f"The {adjective} {noun} of {place}", f"A {noun} in {place}", f"Return to {place}"
    return rng.choice(forms)


def restaurant(rng: Random, space: str) -> str:
    """The name of a restaurant: a sign ("The Amber Fork") or an invented word."""
    if rng.random() < 0.4:
        return rng.choice(("Cafe {}", "{} Kitchen", "{} House", "Casa {}")).format(coin(rng, space))
    while True:
        sign = f"{rng.choice(_ADJECTIVES)} {rng.choice(_TABLEWARE)}"
        if belongs(sign, space):
            return f"The {sign}"


def _named(*forms: str, endings: list[str] = _PLAIN) -> Maker:
    """A maker of names: one of the forms around a coined word."""
    return lambda rng, space: rng.choice(forms).format(coin(rng, space, endings))


def _listed(words: str) -> Maker:
    """A maker that draws from a closed list, separated by commas."""
    values = [word.strip() for word in words.split(",")]
    return lambda rng, space: rng.choice(values)


def _number(low: int, high: int) -> Maker:
    return lambda rng, space: str(rng.randint(low, high))


def _decimal(low: int, high: int, digits: int) -> Maker:
    """A decimal number in a range that is given in units of its last digit."""
    return lambda rng, space: f"{rng.randint(low, high) / 10**digits:.{digits}f}"


def _date(rng: Random, space: str) -> str:
    return f"{rng.randint(1921, 1998)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _long_date(rng: Random, space: str) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {rng.randint(1880, 2019)}"


_OPPOSITE = {"": "", "L": "R", "R": "L"}


def _runway(rng: Random, space: str) -> str:
    direction, side = rng.randint(1, 18), rng.choice(("", "L", "R"))
    return f"{direction:02d}{side}/{direction + 18:02d}{_OPPOSITE[side]}"


def _letters(rng: Random, space: str) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(3, 4)))


def _score(rng: Random, space: str) -> str:
    lost = rng.randint(0, 6)
    return f"{rng.randint(lost + 1, 9)}-{lost}"


MAKERS: dict[str, Maker] = {
    "person": person,
    "dish": dish,
    "title": title,
    "restaurant": restaurant,
    "city": _named("{}", endings=_CITY),
    "country": _named("{}", endings=_COUNTRY),
    "region": _named("{} Valley", "{} Coast", "{} Hills"),
    "company": _named("{} Industries", "{} Group", "{} Works", "{}", endings=_FIRM),
    "publisher": _named("{} Press", "{} Books"),
    "label": _named("{} Records", "{} Music"),
    "band": _named("{} Trio", "{} Brothers", "{} Quartet"),
    "airport": _named("{} Airport", "{} International Airport", endings=_CITY),
    "building": _named("{} Tower", "{} Hall", "{} House", "{} Plaza"),
    "university": _named("{} University", "{} College", "{} Technical University", endings=_CITY),
    "team": _named("{} United", "{} Rovers", "{} City", "{} Athletic", endings=_CITY),
    "ground": _named("{} Park", "{} Stadium", "{} Arena"),
    "league": _named("{} League", "{} Premier Division", "{} Championship"),
    "language": _named("{}", endings=["ish", "nian", "nese"]),
    "mission": _named("{} 3", "{} 7", "{} 11", "{} 15"),
    "party": _named("{} Progress Party", "{} Union", "{} Reform Party"),
    "planetoid": lambda rng, space: f"{rng.randint(101, 9999)} {coin(rng, space)}",
    "vehicle": lambda rng, space: f"{coin(rng, space, _FIRM)} {rng.choice('ABCDEGKMRSTVXZ')}{rng.randint(1, 99)}",
    "ship": _named("MS {}", "SS {}", "HMS {}"),
    "station": _named("{} Road", "{} Junction", "{} Central", endings=_CITY),
    "line": _named("{} Line", "{} Valley Line"),
    "cup": lambda rng, space: f"{coin(rng, space)} {rng.choice(('Cup', 'Trophy', 'Open'))} {rng.randint(2, 60)}",
    "neighbour": _named("{} Hotel", "{} Museum", "{} Theatre", "{} Library"),
    "ingredient": _listed(
        "rice, pork, coconut milk, chickpeas, lemon, cheese, almonds, spinach, honey, potatoes, garlic"
    ),
    "course": _listed("main course, dessert, starter, side dish, snack"),
    "temperature": _listed("hot, cold, warm, lukewarm"),
    "occupation": _listed("test pilot, fighter pilot, engineer, physicist, doctor, geologist"),
    "genre": _listed("science fiction, crime fiction, fantasy, satire, poetry, history, romance"),
    "music": _listed("folk music, jazz, country music, hip hop, blues, chamber music, punk rock"),
    "instrument": _listed("guitar, violin, piano, drums, cello, trumpet, accordion"),
    "position": _listed("goalkeeper, defender, midfielder, striker, winger, centre forward"),
    "office": _listed("governor, senator, prime minister, minister of finance, mayor, ambassador"),
    "engine": _listed("diesel engine, steam engine, electric motor, petrol engine, turbine"),
    "fate": _listed("scrapped, sunk, sold, converted, abandoned"),
    "eatType": _listed("restaurant, pub, coffee shop, bistro, tavern, wine bar"),
    "food": _listed("Italian, Greek, Thai, Turkish, Spanish, Mexican, Korean, vegetarian, Indian, Ethiopian"),
    "price": _listed("low, moderate, high, average, very low, very high"),
    "area": _listed("old town, harbour district, market quarter, university quarter, northern suburbs, station area"),
    "yesno": _listed("yes, no"),
    "date": _date,
    "longdate": _long_date,
    "runway": _runway,
    "letters": _letters,
    "score": _score,
    "rating": lambda rng, space: f"{rng.randint(1, 5)} out of 5",
    "year": _number(1851, 2019),
    "recent": _number(1951, 2019),
    "couple": _number(2, 24),
    "few": _number(2, 60),
    "minutes": _number(71, 199),
    "speed": _number(71, 399),
    "some": _number(101, 999),
    "many": _number(1000, 99999),
    "metres": _decimal(8000, 45000, 1),
    "height": _decimal(155, 215, 2),
    "size": _decimal(100, 9999, 2),
    "days": _decimal(9000, 99999, 1),
}
