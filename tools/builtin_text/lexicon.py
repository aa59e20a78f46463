"""The words of the built-in texts: tables, parsed once, and the types of their rows.

Nothing here is taken from a data set. Cells are separated by ``|``; an empty synonym means that there is none.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A countable noun, another word for it, and a more general one (a surgeon is a doctor)."""

    word: str
    synonym: str
    hypernym: str


@dataclass(frozen=True)
class Verb:
    """Base form, past tense and past participle of a verb."""

    base: str
    past: str
    participle: str


@dataclass(frozen=True)
class Action:
    """A verb that takes a thing of one kind, with a synonym and an antonym."""

    kind: str
    verb: Verb
    synonym: Verb
    antonym: Verb


@dataclass(frozen=True)
class Adjective:
    """An adjective that fits one kind of thing, with a synonym and an antonym."""

    kind: str
    word: str
    synonym: str
    antonym: str


@dataclass(frozen=True)
class Adverbial:
    """A place or a time, and a more general one that contains it (in Rome, in Italy)."""

    word: str
    hypernym: str


@dataclass(frozen=True)
class Genre:
    """A setting: its people, things, places and times, and openings of its sentences."""

    people: tuple[Noun, ...]
    things: dict[str, tuple[Noun, ...]]
    actions: tuple[Action, ...]
    adjectives: tuple[Adjective, ...]
    places: tuple[Adverbial, ...]
    times: tuple[Adverbial, ...]
    openings: tuple[str, ...]


def _cells(table: str) -> list[list[str]]:
    """The cells of a table: one row a line, columns separated by ``|``."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _nouns(table: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, synonym or word, hypernym) for word, synonym, hypernym in _cells(table))


def _verb(cell: str) -> Verb:
    """A verb from its base form (regular: "paint") or from all three forms ("buy bought bought")."""
    base, *irregular = cell.split()
    if irregular:
        return Verb(base, irregular[0], irregular[1])
    stem = base[:-1] + "i" if base.endswith("y") and base[-2] not in "aeiou" else base
    past = stem + ("d" if stem.endswith("e") else "ed")
    return Verb(base, past, past)


def _actions(table: str) -> tuple[Action, ...]:
    return tuple(Action(kind, *map(_verb, verbs)) for kind, *verbs in _cells(table))


def _adverbials(*pairs: tuple[str, str]) -> tuple[Adverbial, ...]:
    return tuple(Adverbial(word, hypernym) for word, hypernym in pairs)


_TOWN_PEOPLE = _nouns("""
    surgeon | | doctor
    nurse | | health worker
    violinist | fiddler | musician
    drummer | | musician
    pianist | | musician
    novelist | | writer
    poet | | writer
    reporter | journalist | writer
    painter | | artist
    sculptor | | artist
    swimmer | | athlete
    runner | | athlete
    goalkeeper | goalie | football player
    striker | forward | football player
    baker | | shopkeeper
    butcher | | shopkeeper
    carpenter | joiner | craftsman
    tailor | | craftsman
    teacher | schoolteacher | educator
    professor | lecturer | academic
    policeman | police officer | official
    lawyer | attorney | professional
    judge | | official
    teenager | adolescent | young person
    boy | lad | child
    girl | | child
    mother | mum | parent
    father | dad | parent
    mayor | | politician
    senator | | politician
    chef | cook | kitchen worker
    waiter | | restaurant worker
""")

_TOWN_THINGS = {
    "goods": _nouns("""
        car | automobile | vehicle
        bicycle | bike | vehicle
        truck | lorry | vehicle
        guitar | | musical instrument
        piano | | musical instrument
        sofa | couch | piece of furniture
        table | | piece of furniture
        laptop | | computer
        watch | wristwatch | device
        camera | | device
        coat | jacket | garment
        dress | gown | garment
        ring | | piece of jewellery
        carpet | rug | floor covering
        boat | | vessel
    """),
    "building": _nouns("""
        house | home | building
        hotel | | building
        church | chapel | building
        school | | building
        bridge | | structure
        tower | | structure
        library | | public building
        theatre | playhouse | public building
        museum | | public building
        shop | store | business
        restaurant | | business
    """),
    "paper": _nouns("""
        report | | document
        contract | agreement | document
        plan | proposal | document
        article | | text
        book | | text
        speech | | text
    """),
    "event": _nouns("""
        wedding | | ceremony
        concert | | show
        play | drama | show
        party | celebration | gathering
        meeting | | gathering
        race | | contest
        dinner | supper | meal
    """),
    "food": _nouns("""
        curry | | dish
        omelette | | dish
        stew | | dish
        cake | | dessert
        pudding | | dessert
        pizza | | meal
        sandwich | | snack
    """),
    "person": _TOWN_PEOPLE,
}

_TOWN_ACTIONS = _actions("""
    goods | buy bought bought | purchase | sell sold sold
    goods | repair | fix | damage
    goods | lose lost lost | misplace | find found found
    goods | hide hid hidden | conceal | display
    goods | choose chose chosen | select | reject
    building | build built built | construct | demolish
    building | open | inaugurate | close
    building | renovate | restore | wreck
    building | like | love | hate
    person | hire | recruit | dismiss
    person | praise | commend | insult
    person | help | assist | hinder
    person | greet | welcome | ignore
    person | admire | respect | despise
    person | rescue | save | abandon
    paper | approve | endorse | reject
    paper | publish | release | withhold withheld withheld
    paper | finish | complete | abandon
    paper | praise | applaud | attack
    event | organise | arrange | cancel cancelled cancelled
    event | attend | join | miss
    event | enjoy | love | hate
    food | cook | prepare | burn
    food | eat ate eaten | devour | refuse
""")

_TOWN_ADJECTIVES = tuple(
    Adjective(*cells)
    for cells in _cells("""
    goods | big | large | small
    goods | expensive | costly | cheap
    goods | new | brand-new | old
    goods | beautiful | lovely | ugly
    building | big | large | small
    building | old | ancient | modern
    building | famous | well-known | unknown
    building | beautiful | lovely | ugly
    person | young | youthful | old
    person | kind | friendly | rude
    person | famous | well-known | unknown
    person | rich | wealthy | poor
    paper | long | lengthy | short
    paper | boring | dull | exciting
    paper | simple | easy | complicated
    event | long | lengthy | short
    event | quiet | calm | noisy
    event | boring | dull | exciting
    food | tasty | delicious | bland
    food | hot | steaming | cold
    food | big | large | small
""")
)

_CITIES = (
    *(("Rome", "Italy"), ("Oslo", "Norway"), ("Paris", "France"), ("Madrid", "Spain"), ("Berlin", "Germany")),
    *(("Vienna", "Austria"), ("Tokyo", "Japan"), ("Cairo", "Egypt"), ("Dublin", "Ireland"), ("Lisbon", "Portugal")),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "March", "April", "June", "July", "October", "November")

_WILD_PEOPLE = _nouns("""
    farmer | grower | countryman
    shepherd | herdsman | countryman
    fisherman | angler | countryman
    hunter | | outdoorsman
    ranger | | outdoorsman
    biologist | | scientist
    geologist | | scientist
    astronomer | stargazer | scientist
    captain | skipper | sailor
    explorer | | traveller
    pilgrim | | traveller
    photographer | | artist
    prince | | nobleman
    duke | | nobleman
""")

_WILD_THINGS = {
    "animal": _nouns("""
        horse | | animal
        donkey | | animal
        fox | | wild animal
        wolf cub | | wild animal
        eagle | | bird
        owl | | bird
        lizard | | reptile
        snake | | reptile
    """),
    "finding": _nouns("""
        cave | cavern | natural wonder
        fossil | | relic
        crystal | gem | mineral
        coin | | relic
        crater | | natural wonder
        star | | celestial body
    """),
    "gear": _nouns("""
        tent | | shelter
        cabin | hut | shelter
        canoe | | boat
        raft | | boat
        rope | cord | tool
        telescope | | instrument
    """),
    "person": _WILD_PEOPLE,
}

_WILD_ACTIONS = _actions("""
    animal | catch caught caught | capture | free
    animal | protect | guard | hurt hurt hurt
    animal | love | adore | fear
    finding | discover | find found found | overlook
    finding | study | examine | ignore
    gear | build built built | construct | destroy
    gear | accept | take took taken | refuse
    person | follow | pursue | avoid
    person | obey | heed | defy
    person | trust | believe | suspect
""")

_WILD_ADJECTIVES = tuple(
    Adjective(*cells)
    for cells in _cells("""
    animal | young | juvenile | old
    animal | wild | untamed | tame
    finding | rare | uncommon | common
    finding | large | big | small
    gear | sturdy | strong | fragile
    gear | heavy | weighty | light
    person | brave | courageous | cowardly
    person | honest | truthful | dishonest
""")
)

_COUNTRIES = (
    *(("Kenya", "Africa"), ("Nepal", "Asia"), ("Peru", "South America"), ("Iceland", "Europe"), ("Chad", "Africa")),
    *(("Brazil", "South America"), ("Mongolia", "Asia"), ("Finland", "Europe")),
)

TOWN = Genre(
    people=_TOWN_PEOPLE,
    things=_TOWN_THINGS,
    actions=_TOWN_ACTIONS,
    adjectives=_TOWN_ADJECTIVES,
    places=_adverbials(*((f"in {city}", f"in {country}") for city, country in _CITIES)),
    times=_adverbials(
        *((f"on {day} {part}", f"on {day}") for day in _DAYS for part in ("morning", "evening")),
        *((f"in {part} {month}", f"in {month}") for month in _MONTHS for part in ("early", "late")),
    ),
    openings=("",),
)

WILD = Genre(
    people=_WILD_PEOPLE,
    things=_WILD_THINGS,
    actions=_WILD_ACTIONS,
    adjectives=_WILD_ADJECTIVES,
    places=_adverbials(*((f"in {country}", f"in {continent}") for country, continent in _COUNTRIES)),
    times=_adverbials(
        *(
            (f"in the {season} of {year}", f"in {year}")
            for season in ("spring", "autumn")
            for year in range(1871, 1990, 13)
        )
    ),
    openings=("well, I heard that ", "as the diary says, ", "you know, ", "they told us that "),
)

# Details that any action can have and that nothing else in a sentence implies.
MANNERS = (
    *("without any help", "for the first time", "in secret", "by mistake", "in a hurry", "with great joy"),
    *("after a long wait", "despite the rain", "against all advice", "for the last time", "with some regret"),
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")


def plural(word: str) -> str:
    """The plural of a noun of the tables, of its last word, or of its first before "of" (pieces of furniture)."""
    head, of, rest = word.partition(" of ")
    if head.endswith(("man", "men")):
        return head[:-2] + "en" + of + rest
    if head.endswith("child"):
        return head + "ren" + of + rest
    if head.endswith("y") and head[-2] not in "aeiou":
        return head[:-1] + "ies" + of + rest
    return head + ("es" if head.endswith(("s", "x", "ch", "sh")) else "s") + of + rest


def indefinite(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" or phrase.startswith("honest") else "a ") + phrase
