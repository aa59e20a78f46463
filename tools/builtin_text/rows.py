"""The tables of the built-in DART-style texts: kinds of table rows, columns and phrasings (format: ``facts.py``)."""

from .facts import Book, parse_pairs, parse_relations, parse_topics

_TOPICS = parse_topics("""
    dart | film | title | DIRECTOR, YEAR OF RELEASE, RUNNING_TIME, STUDIO, FILM LANGUAGE
    dart | ship | ship | BUILDER, LAUNCHED, TONNAGE, HOME_PORT, FATE
    dart | player | person | TEAM, FIELD POSITION, SCHOOL, PICK NUMBER, HOMETOWN
    dart | station | station | LINE, YEAR OPENED, PASSENGERS_PER_DAY, PLATFORMS, DISTANCE_KM
    dart | final | cup | WINNER, DATE PLAYED, FINAL_SCORE, VENUE, ATTENDANCE
    dart | song | title | ARTIST, RECORD LABEL, CHART_POSITION, YEAR OF RELEASE, COPIES SOLD
""")

_RELATIONS = parse_relations("""
    DIRECTOR | person | was directed by {o} | is a film by {o} | {o} is the director of {s} | was made by {o}
    YEAR OF RELEASE | recent | was released in {o} | came out in {o} | {o} is the year of release of {s} | appeared in {o}
    RUNNING_TIME | minutes | has a running time of {o} minutes | is {o} minutes long | lasts {o} minutes
        | goes on for {o} minutes
    STUDIO | company | was produced by {o} | is a production of {o} | {o} is the studio that produced {s}
        | was paid for by {o}
    FILM LANGUAGE | language | is a film in {o} | has {o} as {its} language | was shot in the {o} language
        | is spoken in {o}
    BUILDER | company | was built by {o} | is a ship built by {o} | {o} is the builder of {s} | was put together by {o}
    LAUNCHED | longdate | was launched on {o} | has a launch date of {o} | {o} is the day when {s} was launched
        | first touched the water on {o}
    TONNAGE | many | has a tonnage of {o} | has a total tonnage of {o} tons | weighs {o} tons | comes to {o} tons
    HOME_PORT | city | has {o} as {its} home port | sails from the port of {o} | {o} is the home port of {s}
        | is based in {o}
    FATE | fate | was {o} in the end | was finally {o} | ended up being {o} | was at last {o}
    TEAM | team | plays for {o} | was picked by {o} | {o} is the team of {s} | was signed by {o}
    FIELD POSITION | position | plays as {a} | has the position of {o} | is {a} | takes the field as {a}
    SCHOOL | university | went to {o} | attended {o} | {o} is the school of {s} | was educated at {o}
    PICK NUMBER | few | was pick number {o} in the draft | had the pick number {o}
        | was chosen with pick number {o} | was number {o} on the list of picks
    HOMETOWN | city | comes from {o} | has {o} as {its} hometown | {o} is the hometown of {s} | grew up in {o}
    LINE | line | is a station on the {o} | is served by the {o} | can be reached on the {o} | lies along the {o}
    YEAR OPENED | year | was opened in {o} | has been open since {o} | {o} is the year when {s} was opened
        | saw its first train in {o}
    PASSENGERS_PER_DAY | many | is used by {o} passengers a day | has {o} passengers per day
        | serves {o} passengers every day | sees {o} passengers a day
    PLATFORMS | couple | has {o} platforms | is a station with {o} platforms | has a total of {o} platforms
        | offers {o} platforms
    DISTANCE_KM | size | is {o} kilometres from the start of the line | lies {o} kilometres down the line
        | is at a distance of {o} kilometres | is {o} kilometres away
    WINNER | team | was won by {o} | had {o} as {its} winner | {o} was the winner of {s} | went to {o}
    DATE PLAYED | longdate | was played on {o} | took place on {o} | {o} is the date when {s} was played
        | was held on {o}
    FINAL_SCORE | score | ended with a score of {o} | had a final score of {o} | finished {o}
        | was decided by a score of {o}
    VENUE | ground | was played at {o} | took place at {o} | {o} was the venue of {s} | was held at {o}
    ATTENDANCE | many | had an attendance of {o} | was seen by {o} people | was attended by {o} people
        | drew a crowd of {o}
    ARTIST | person | is a song by {o} | was sung by {o} | {o} is the artist of {s} | was recorded by {o}
    RECORD LABEL | label | was issued by {o} | is on the label {o} | {o} is the record label of {s}
        | was brought out by {o}
    CHART_POSITION | few | reached number {o} in the charts | had a chart position of {o}
        | rose to position {o} in the charts | peaked at number {o}
    COPIES SOLD | many | sold {o} copies | has sold a total of {o} copies | reached sales of {o} copies
        | found {o} buyers
""")

_PAIRS = parse_pairs("""
    DIRECTOR | YEAR OF RELEASE | is a film by {o} that was released in {p} | was directed by {o} and released in {p}
    BUILDER | LAUNCHED | was built by {o} and launched on {p} | was launched on {p} by {o}
    TEAM | FIELD POSITION | plays as {b} for {o} | plays for {o} as {b}
    LINE | YEAR OPENED | is a station on the {o} that was opened in {p} | was opened in {p} on the {o}
    WINNER | FINAL_SCORE | was won by {o} with a score of {p} | ended {p} and was won by {o}
    DATE PLAYED | VENUE | was played at {p} on {o} | took place on {o} at {p}
    ARTIST | YEAR OF RELEASE | is a song by {o} that came out in {p} | was sung by {o} and released in {p}
""")

BOOK = Book(topics=_TOPICS, relations=_RELATIONS, pairs=_PAIRS, chains={})
