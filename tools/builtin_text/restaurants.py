"""The tables of the built-in E2E-style texts: attributes of restaurants and phrasings (format: ``facts.py``)."""

from .facts import Book, parse_pairs, parse_relations, parse_topics

_TOPICS = parse_topics("""
    restaurant | place | restaurant | eatType, food, priceRange, customer rating, area, familyFriendly, near
""")

_RELATIONS = parse_relations("""
    eatType | eatType | is {a} | is run as {a} | is a place that works as {a} | is known as {a}
    food | food | serves {o} food | offers {o} dishes | has {o} food on the menu | cooks {o} meals
    priceRange | price | has {o} prices | has {a} price range | is in the {o} price range | asks for {o} prices
    customer rating | rating | has a customer rating of {o} | is rated {o} by its customers
        | has been given {o} by its customers | gets {o} from its guests
    area | area | is located in the {o} | can be found in the {o} | in the {o}, you can find {s} | lies in the {o}
    familyFriendly | yesno | is open to all | is open to all
    familyFriendly=yes | yesno | is family friendly | welcomes families with children
        | is a good place for families | has room for children
    familyFriendly=no | yesno | is not family friendly | does not welcome children | is not a place for families
        | has no room for children
    near | neighbour | is near {o} | is close to {o} | near {o}, there is a place called {s} | stands next to {o}
""")

_PAIRS = parse_pairs("""
    eatType | food | is {a} that serves {p} food | is {a} with {p} food | is {a} where {p} food is served
    area | near | is located in the {o} near {p} | can be found near {p} in the {o}
    priceRange | customer rating | has {o} prices and a customer rating of {p}
        | has a customer rating of {p} and {o} prices
""")

BOOK = Book(topics=_TOPICS, relations=_RELATIONS, pairs=_PAIRS, chains={}, ordered=True)
