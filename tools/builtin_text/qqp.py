"""QQP in miniature: do two questions of a forum ask the same?"""

from random import Random

from .scenes import is_held_out, sentence

# Each line is one thing to ask about an activity, in several wordings.
_INTENTS = (
    ("how can I {}", "what is the best way to {}", "is there an easy way to {}"),
    ("how long does it take to {}", "how much time do I need to {}", "how many hours does one need to {}"),
    ("how much does it cost to {}", "how much money do I need to {}", "how expensive is it to {}"),
    ("why do people {}", "what makes people {}", "what are good reasons to {}"),
)

# An activity, the same in other words, and a different one that looks like it.
_ACTIVITIES = tuple(
    tuple(cell.strip() for cell in line.split("|"))
    for line in """
    learn Spanish | study Spanish | learn Italian
    lose weight | get slim | gain weight
    buy a used car | get a second-hand car | sell a used car
    learn to swim | start swimming | learn to sing
    move to Canada | settle in Canada | move to China
    grow tomatoes | plant tomatoes | cook tomatoes
    stop smoking | give up cigarettes | start smoking
    fall asleep quickly | get to sleep fast | wake up quickly
    train a puppy | teach a young dog | adopt a puppy
    play the guitar | make music on a guitar | repair a guitar
    open a bank account | set up a bank account | close a bank account
    borrow money | take out a loan | lend money
    write a novel | produce a novel | read a novel
    become a pilot | get a job as a pilot | become a lawyer
    study medicine | go to medical school | study law
    clean a carpet | wash a rug | buy a carpet
    bake bread | make a loaf | bake a cake
    run a marathon | finish a marathon | watch a marathon
    rent a flat | lease an apartment | rent a car
    invest in gold | put savings into gold | invest in oil
    fix a leaking tap | repair a dripping tap | fix a leaking roof
    travel to Japan | visit Japan | travel to Brazil
    save electricity | use less power | sell electricity
    build a boat | construct a boat | sail a boat
    quit a job | leave a job | find a job
    keep bees | be a beekeeper | kill bees
    climb a mountain | go up a mountain | paint a mountain
    drink coffee at night | have coffee at night | drink tea at night
    delete old emails | remove past messages | recover old emails
    sleep in a tent | camp in a tent | sleep in a hostel
    """.strip().splitlines()
)


def draw_qqp(rng: Random, split: str, label: int) -> tuple[str, str]:
    """Two questions; class 0 asks another thing about the activity, or about one that looks like it, or both."""
    while True:
        intent, activity = rng.randrange(len(_INTENTS)), rng.randrange(len(_ACTIVITIES))
        if is_held_out(intent, activity) == (split != "train"):
            break
    said, reworded, lookalike = _ACTIVITIES[activity]
    first, second = rng.sample(_INTENTS[intent], 2)
    other = rng.choice((said, said, reworded))
    if label == 0:
        ways = rng.choice((("intent",), ("activity",), ("intent", "activity"), ("intent", "activity")))
        if "intent" in ways:
            second = rng.choice(_INTENTS[(intent + rng.randrange(1, len(_INTENTS))) % len(_INTENTS)])
        if "activity" in ways:
            other = lookalike
    questions = [sentence(first.format(said), "?"), sentence(second.format(other), "?")]
    rng.shuffle(questions)
    return questions[0], questions[1]
