"""The tables of the built-in WebNLG-style texts: categories, relations and phrasings (format: ``facts.py``)."""

from .facts import Book, parse_pairs, parse_relations, parse_topics

SEEN = ("Airport", "Astronaut", "Building", "City", "Food", "SportsTeam", "University", "WrittenWork")
UNSEEN = ("Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician")

_TOPICS = parse_topics("""
    Airport | airport | airport | location, cityServed, runwayLength, runwayName, operatingOrganisation, elevation
    Astronaut | astronaut | person | birthPlace, birthDate, almaMater, occupation, mission, timeInSpace
    Building | building | building | location, architect, floorCount, floorArea, completionDate, owner
    City | city | city | country, leaderName, populationTotal, areaTotal, elevation
    Food | dish | dish | region, mainIngredient, ingredient, course, creator, servingTemperature
    SportsTeam | club | team | ground, league, manager, numberOfMembers, founded, location
    University | university | university | location, founded, leaderName, numberOfStudents, academicStaffSize
    WrittenWork | book | title | author, publisher, language, numberOfPages, publicationDate, genre
    Artist | musician | person | birthPlace, birthDate, musicGenre, recordLabel, instrument, associatedBand
    Athlete | player | person | birthPlace, birthDate, almaMater, club, position, height
    CelestialBody | asteroid | planetoid | discoverer, discoveryDate, orbitalPeriod, density, temperature
    MeanOfTransportation | vehicle | vehicle | manufacturer, owner, engine, topSpeed, productionStartYear
    Politician | politician | person | birthPlace, almaMater, occupation, party, office, successor
""")

_RELATIONS = parse_relations("""
    location | city | is located in {o} | can be found in {o} | lies in the city of {o} | has its seat in {o}
    country | country | is part of {o} | is in the country of {o} | is one of the cities of {o} | belongs to {o}
    leaderName | person | is led by {o} | has {o} as its leader | {o} is the leader of {s} | has chosen {o} to lead it
    elevation | metres | is {o} metres above sea level | lies at an elevation of {o} metres
        | has an elevation of {o} metres above the sea | stands {o} metres above the level of the sea
    cityServed | city | serves the city of {o} | is the airport of {o} | {o} is served by {s}
        | is used by the people of {o}
    runwayLength | metres | has a runway that is {o} metres long | has a runway length of {o} metres
        | {o} metres is the length of the runway of {s} | offers a runway of {o} metres
    runwayName | runway | has a runway named {o} | has a runway with the name {o}
        | {o} is the name of a runway of {s} | calls one of its runways {o}
    operatingOrganisation | company | is operated by {o} | is run by {o} | {o} is the operator of {s}
        | is in the hands of {o}
    birthPlace | city | was born in {o} | is a native of {o} | {o} is the birthplace of {s}
        | first saw the light of day in {o}
    birthDate | date | was born on {o} | has {o} as {its} date of birth | {o} is the date of birth of {s}
        | came into the world on {o}
    almaMater | university | graduated from {o} | studied at {o} | {o} is the alma mater of {s}
        | went to {o} as a student
    occupation | occupation | worked as {a} | was {a} by profession | had a career as {a} | earned a living as {a}
    mission | mission | was a member of the {o} crew | flew on the {o} mission | took part in the {o} mission
        | went into space with {o}
    timeInSpace | many | spent {o} minutes in space | was in space for {o} minutes
        | has a time in space of {o} minutes | stayed in space for a total of {o} minutes
    architect | person | was designed by {o} | is the work of the architect {o} | {o} was the architect of {s}
        | was drawn up by {o}
    floorCount | few | has {o} floors | is {o} floors high | rises to a height of {o} floors | counts {o} floors
    floorArea | size | has a floor area of {o} square metres | covers a total of {o} square metres
        | offers {o} square metres of floor area | provides {o} square metres of space
    completionDate | year | was completed in {o} | was finished in {o}
        | {o} was the year in which {s} was completed | has been standing since {o}
    owner | company | is owned by {o} | belongs to {o} | {o} is the owner of {s} | is the property of {o}
    populationTotal | many | has a population of {o} | has {o} inhabitants | is home to {o} people
        | counts {o} residents
    areaTotal | size | has a total area of {o} square kilometres | covers an area of {o} square kilometres
        | has an area of {o} square kilometres | extends over {o} square kilometres
    region | region | comes from the {o} | is a dish from the {o} | the {o} is the home of {s}
        | has its origin in the {o}
    mainIngredient | ingredient | has {o} as {its} main ingredient | is mainly made of {o}
        | {o} is the main ingredient of {s} | is based on {o}
    ingredient | ingredient | contains {o} | includes {o} as an ingredient | {o} is an ingredient of {s}
        | is made with {o}
    course | course | is served as {a} | is eaten as {a} | makes {a} | is known as {a}
    creator | person | was created by {o} | was invented by {o} | {o} is the creator of {s} | was first cooked by {o}
    servingTemperature | temperature | should be served {o} | is served {o} | is eaten {o} | tastes best {o}
    ground | ground | plays its home games at {o} | has its ground at {o} | {o} is the home ground of {s}
        | welcomes its guests at {o}
    league | league | plays in the {o} | competes in the {o} | is a member of the {o} | takes part in the {o}
    manager | person | is managed by {o} | has {o} as {its} manager | {o} is the manager of {s} | is coached by {o}
    numberOfMembers | many | has {o} members | counts {o} members | has a total of {o} members
        | is supported by {o} members
    founded | year | was founded in {o} | was established in {o} | {o} was the year in which {s} was founded
        | goes back to {o}
    numberOfStudents | many | has {o} students | is attended by {o} students | has a total of {o} students
        | teaches {o} students
    academicStaffSize | some | has an academic staff of {o} people | employs {o} academic staff
        | has {o} members of academic staff | pays {o} teachers and scholars
    author | person | was written by {o} | is a book by {o} | {o} is the author of {s} | came from the pen of {o}
    publisher | publisher | was published by {o} | is published by {o} | {o} is the publisher of {s}
        | was printed by {o}
    language | language | was written in the {o} language | is in the {o} language | has {o} as {its} language
        | can be read in {o}
    numberOfPages | some | has {o} pages | is {o} pages long | has a length of {o} pages | fills {o} pages
    publicationDate | date | was published on {o} | came out on {o} | {o} is the publication date of {s}
        | reached the shops on {o}
    genre | genre | belongs to the genre of {o} | is a work of {o} | has the genre of {o} | is counted as {o}
    capital | city | has {o} as {its} capital | is governed from its capital {o} | {o} is the capital of {s}
        | has its government in {o}
    officialLanguage | language | has {o} as {its} official language | uses {o} as its official language
        | has an official language called {o} | is a place where people speak {o}
    musicGenre | music | plays {o} | performs {o} | is known for {o} | is a performer of {o}
    recordLabel | label | is signed to {o} | records for {o} | has a contract with the record label {o}
        | makes records with {o}
    instrument | instrument | plays the {o} | performs on the {o} | is a player of the {o} | is a master of the {o}
    associatedBand | band | performs with the {o} | is associated with the {o} | has played with the {o}
        | appears on stage with the {o}
    club | team | plays for {o} | is a player of {o} | has a contract with {o} | wears the shirt of {o}
    position | position | plays as {a} | is used as {a} | has the position of {o} | appears on the field as {a}
    height | height | is {o} metres tall | has a height of {o} metres | measures {o} metres | reaches {o} metres
    discoverer | person | was discovered by {o} | was first seen by {o} | {o} is the discoverer of {s}
        | was found by {o}
    discoveryDate | date | was discovered on {o} | was first seen on {o} | {o} is the discovery date of {s}
        | was found on {o}
    orbitalPeriod | days | has an orbital period of {o} days | takes {o} days for an orbit
        | completes an orbit in {o} days | circles the sun in {o} days
    density | size | has a density of {o} grams per litre | has a mean density of {o} grams per litre
        | weighs {o} grams per litre | comes to {o} grams per litre
    temperature | some | has a temperature of {o} kelvin | has a mean temperature of {o} kelvin
        | reaches {o} kelvin | is heated to {o} kelvin
    manufacturer | company | is made by {o} | is built by {o} | {o} is the manufacturer of {s}
        | comes from the factories of {o}
    engine | engine | is powered by {a} | has {a} | is driven by {a} | runs on {a}
    topSpeed | speed | has a top speed of {o} kilometres per hour | reaches {o} kilometres per hour
        | can reach a speed of {o} kilometres per hour | does {o} kilometres per hour
    productionStartYear | year | has been produced since {o} | went into production in {o}
        | was first produced in {o} | was first sold in {o}
    party | party | is a member of the {o} | belongs to the {o} | represents the {o} | stands for the {o}
    office | office | served as {o} | held the office of {o} | was in office as {o} | was chosen as {o}
    successor | person | was succeeded by {o} | was followed in office by {o} | {o} was the successor of {s}
        | made way for {o}
""")

_PAIRS = parse_pairs("""
    birthPlace | birthDate | was born in {o} on {p} | was born on {p} in {o}
    architect | completionDate | was designed by {o} and completed in {p} | was completed in {p} to a design by {o}
    floorCount | floorArea | has {o} floors with a total area of {p} square metres
        | has {o} floors and covers {p} square metres
    runwayName | runwayLength | has a runway named {o} that is {p} metres long
        | has a runway of {p} metres with the name {o}
    populationTotal | areaTotal | has {o} inhabitants on an area of {p} square kilometres
        | has a population of {o} and covers {p} square kilometres
    mainIngredient | ingredient | is made of {o} and {p} | has {o} as {its} main ingredient and also contains {p}
    ground | league | plays in the {p} and has its ground at {o} | plays at {o} in the {p}
    author | publicationDate | was written by {o} and published on {p} | is a book by {o} that came out on {p}
    numberOfStudents | academicStaffSize | has {o} students and an academic staff of {p}
        | has an academic staff of {p} and {o} students
    occupation | mission | was {a} and a member of the {p} crew | flew on the {p} mission as {a}
    discoverer | discoveryDate | was discovered by {o} on {p} | was discovered on {p} by {o}
    club | position | plays as {b} for {o} | plays for {o} as {b}
""")

BOOK = Book(
    topics=_TOPICS,
    relations=_RELATIONS,
    pairs=_PAIRS,
    chains={
        "city": ("country", "leaderName", "populationTotal"),
        "country": ("capital", "officialLanguage"),
        "person": ("birthPlace", "almaMater"),
        "university": ("location", "founded"),
    },
)
