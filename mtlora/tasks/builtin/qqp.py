"""QQP in miniature: do two questions of a forum ask the same?"""

from random import Random

from mtlora.tasks.builtin.scenes import is_held_out, sentence

# Each line is one thing to ask about an activity, in several wordings.
_INTENTS = (
    ("how can I {}", "what is the best way to {}", "is there an easy way to {}", "what should I do to {}"),
    ("how long does it take to {}", "how much time do I need to {}", "how many hours does one need to {}"),
    ("how much does it cost to {}", "how much money do I need to {}", "what does one pay to {}"),
    ("why do people {}", "what makes people {}", "what are the reasons to {}"),
    ("should I {}", "is it a good idea to {}", "would you advise me to {}"),
    ("is it dangerous to {}", "what are the risks if I {}", "is it safe to {}"),
    ("at what age can one {}", "how old must I be to {}", "am I too young to {}"),
)

# An activity, the same in other words, and a different one that looks like it.
_ACTIVITIES = tuple(
    tuple(cell.strip() for cell in line.split("|"))
    for line in """
    learn Spanish quickly | become fluent in Spanish soon | learn Italian quickly
    lose weight | get slimmer | gain weight
    buy a used car | get a second-hand car | sell a used car
    learn to swim | take up swimming | learn to sing
    move to Canada | settle in Canada | move to China
    grow tomatoes at home | raise tomatoes in my garden | cook tomatoes at home
    stop smoking | give up cigarettes | start smoking
    fall asleep faster | get to sleep sooner | wake up faster
    train a puppy | teach a young dog | adopt a puppy
    play the guitar | make music on a guitar | repair the guitar
    open a bank account | become a client of a bank | close a bank account
    borrow money from a friend | ask a friend for a loan | lend money to a friend
    write a novel | author a book of fiction | read a novel
    become a pilot | get a job flying planes | become a police officer
    study medicine abroad | go to a foreign medical school | study law abroad
    clean a wool carpet | wash a woollen rug | dye a wool carpet
    bake bread without yeast | make a loaf with no yeast | bake bread without salt
    run a marathon | finish a 42 kilometre race | watch a marathon
    rent a flat in London | lease an apartment in London | rent a car in London
    invest in gold | put my savings into gold | invest in oil
    fix a leaking tap | repair a dripping faucet | fix a leaking roof
    travel to Japan alone | visit Japan by myself | travel to Japan with children
    save electricity | use less power | sell electricity
    build a wooden boat | make a boat out of wood | buy a wooden boat
    quit a boring job | leave dull work | find a boring job
    keep bees | be a beekeeper | fear bees
    climb a high mountain | go up a tall peak | paint a high mountain
    drink coffee at night | have coffee in the evening | drink tea at night
    delete old emails | remove past messages | recover old emails
    sleep in a tent | spend the night camping | sleep in a hostel
    """.strip().splitlines()
)


def draw_qqp(rng: Random, split: str, label: int) -> tuple[str, str]:
    """Two questions; class 0 asks something else about the activity, or the same about one that looks like it."""
    while True:
        intent, activity = rng.randrange(len(_INTENTS)), rng.randrange(len(_ACTIVITIES))
        if is_held_out(intent, activity) == (split != "train"):
            break
    said, reworded, lookalike = _ACTIVITIES[activity]
    first, second = rng.sample(_INTENTS[intent], 2)
    if label == 1:
        other = rng.choice((said, reworded, reworded))
    elif rng.random() < 0.5:
        other = lookalike
    else:
        other = rng.choice((said, reworded))
        second = rng.choice(_INTENTS[(intent + rng.randrange(1, len(_INTENTS))) % len(_INTENTS)])
    questions = [sentence(first.format(said), "?"), sentence(second.format(other), "?")]
    rng.shuffle(questions)
    return questions[0], questions[1]
