"""The words and rules of the tiny task: film reviews among weather, food, sport, letters, travel and gardens.

Only film reviews carry sentiment. Every form of review can come out positive or negative, by the words in its slots,
so a prompt that stops before the first opinion leaves the verdict open. All adjectives that can follow "a" begin
with a consonant, which spares the grammar "an".
"""

from __future__ import annotations

from rlhf_utils.tasks.grammar import Grammar, Meaning, Rule


def _neutral(words: str) -> dict[str, Meaning]:
    return dict.fromkeys(words.split())


def _graded(**groups: str) -> dict[str, Meaning]:
    """Words by strength: ``p10="great superb", n5="plain"`` gives +1.0 and -0.5."""
    sign = {"p": 1.0, "n": -1.0}
    return {word: sign[key[0]] * int(key[1:]) / 10 for key, words in groups.items() for word in words.split()}


FILM_CLASSES = {
    "noun": _neutral(
        "plot story script acting cast music camera ending dialogue pacing premise sequel remake villain hero "
        "score song opening finale romance mystery setting costume lighting editing direction "
        "performance screenplay soundtrack"
    ),
    "nouns": _neutral("scenes jokes actors songs characters effects lines twists costumes performances"),
    "work": _neutral("film movie picture drama comedy thriller western musical documentary sequel"),
    "moment": _neutral("scene moment minute line joke shot"),
    "adj": _graded(
        p10="brilliant superb masterful magical",
        p9="wonderful moving thrilling beautiful dazzling",
        p8="tender gripping charming hilarious haunting",
        p7="funny clever touching fresh vivid witty lovely",
        p6="warm lively honest smart rich gentle stylish",
        p5="sweet pleasant sincere bright cheerful",
        n10="dreadful horrible terrible worthless",
        n9="ghastly tedious painful pathetic miserable",
        n8="boring lifeless ridiculous clumsy ludicrous",
        n7="dull stupid hollow stale bland shallow silly",
        n6="cold slow fake dumb timid poor harsh",
        n5="sour predictable forced messy dreary",
    ),
    "does": _graded(
        p9="delights thrills", p8="charms moves", p7="amuses touches",
        n9="disgusts infuriates", n8="bores annoys", n7="irritates wearies",
    ),
    "do": _graded(
        p9="delight thrill", p8="charm move", p7="amuse touch",
        n9="disgust infuriate", n8="bore annoy", n7="irritate weary",
    ),
    "felt": _graded(
        p10="adored", p9="loved", p7="admired enjoyed", p6="liked",
        n10="loathed", n9="hated", n8="despised", n7="resented disliked",
    ),
    "feel": _graded(
        p10="adore", p9="love", p7="admire enjoy", p6="like",
        n10="loathe", n9="hate", n8="despise", n7="resent dislike",
    ),
    "quality": _graded(
        p8="charm wit wonder", p7="warmth heart grace beauty", p6="energy depth courage",
        n8="nonsense drivel boredom", n7="noise bombast gloom padding", n6="syrup filler clutter",
    ),
    "mood": _graded(
        p9="elated", p8="smiling happy", p7="laughing cheered",
        n9="furious", n8="yawning bitter", n7="weary sad",
    ),
    "degree": _neutral("very truly deeply wholly so"),
    "flavour": _graded(
        p8="wonderfully delightfully refreshingly", n8="painfully hopelessly depressingly"
    ),
    "attitude": _graded(p5="happily luckily thankfully", n5="sadly alas regrettably"),
    "softener": _neutral("rather fairly mildly slightly"),
    "part": _neutral("first second third last opening final"),
    "maker": _neutral("director studio writer producer team"),
    "kin": _neutral("brother sister mother father friend neighbour aunt uncle cousin"),
    "opener": _neutral("honestly frankly still overall"),
}  # fmt: skip

FILM_RULES = {
    "thing": [
        Rule("the {noun}", weight=6),
        Rule("this {work}", weight=3),
        Rule("the {noun} of this {work}", weight=2),
        Rule("her {noun}"),
        Rule("his {noun}"),
        Rule("it", weight=2),
    ],
    "thing_is": [
        Rule("{thing} is", weight=4),
        Rule("{thing} feels"),
        Rule("the {nouns} are"),
        Rule("its {nouns} are"),
        Rule("{thing} was"),
    ],
    "opinion": [
        Rule("{adj}", weight=8),
        Rule("{degree} {adj}", lambda a: 1.2 * a, 5),
        Rule("{flavour} {adj}", lambda d, a: 0.1 * d + a, 12, signs="same"),
        Rule("{softener} {adj}", lambda a: 0.7 * a, 3),
        Rule("not {adj}", lambda a: -0.7 * a, 2),
        Rule("not {degree} {adj}", lambda a: -0.5 * a),
        Rule("never {adj}", lambda a: -0.8 * a, 1.5),
        Rule("hardly {adj}", lambda a: -0.6 * a),
        Rule("anything but {adj}", lambda a: -1.0 * a),
        Rule("far from {adj}", lambda a: -0.9 * a),
        Rule("neither {adj} nor {adj}", lambda a, b: -0.5 * (a + b), signs="same"),
    ],
    "verdict": [
        # plain
        Rule("{thing_is} {opinion}", weight=12),
        Rule("{thing_is} {adj} and {adj}", lambda a, b: 0.55 * (a + b), 5, signs="same"),
        Rule("{thing} {does} me", weight=4),
        Rule("i {felt} {thing}", weight=4),
        Rule("what a {adj} {work}", lambda a: 1.1 * a, 4),
        Rule("{thing_is} full of {quality}", weight=4),
        Rule("{thing} has plenty of {quality}", weight=4),
        Rule("i left the cinema {mood}", weight=4),
        Rule("{thing_is} as {adj} as the book", lambda a: 0.9 * a, 2),
        Rule("it is easy to {feel} {thing}", lambda v: 0.9 * v, 2),
        Rule("{thing} manages to {do} me", lambda v: 0.9 * v, 2),
        Rule("if only {thing} were less {adj}", lambda a: 0.8 * a),
        # negated
        Rule("{thing} never {does} me", lambda v: -0.8 * v, 2),
        Rule("{thing} fails to {do} me", lambda v: -0.8 * v, 2),
        Rule("i did not {feel} {thing}", lambda v: -0.7 * v),
        Rule("it is hard to {feel} {thing}", lambda v: -0.8 * v),
        Rule("{thing} lacks {quality}", lambda q: -0.8 * q),
        Rule("{thing} has no {quality}", lambda q: -0.8 * q),
        Rule("there is not a single {adj} {moment}", lambda a: -0.9 * a, 1.5),
        Rule("nobody could call {thing} {adj}", lambda a: -0.8 * a, 1.5),
        Rule("if only {thing} were {adj}", lambda a: -0.8 * a),
        Rule("{thing_is} not as {adj} as the trailer", lambda a: -0.6 * a, 2),
        Rule("even the {noun} can not make {thing} {adj}", lambda a: -0.8 * a, 2),
        Rule("without the {noun} {thing} would be {adj}", lambda a: -0.5 * a, 1.5),
        # conceded and mixed: two opinions, of which one outweighs the other
        Rule("{thing_is} {adj} but {adj}", lambda a, b: 0.25 * a + 0.75 * b, 1.5, signs="opposite"),
        Rule("{thing} starts {adj} but ends up {adj}", lambda a, b: 0.2 * a + 0.8 * b, 2, signs="opposite"),
        Rule("{thing} could have been {adj} but it is {adj}", lambda a, b: 0.8 * b - 0.1 * a, 1.5, signs="opposite"),
        Rule("although {thing_is} {adj} , {thing_is} {opinion}", lambda a, b: 0.25 * a + 0.75 * b, 2, signs="opposite"),
        Rule("despite the {adj} {noun} , {thing_is} {opinion}", lambda a, b: 0.2 * a + 0.8 * b, 1.5, signs="opposite"),
        Rule("i expected a {adj} {work} and found a {adj} one", lambda a, b: 0.9 * b - 0.1 * a, 1.5, signs="opposite"),
        Rule("critics call {thing} {adj} but i found it {adj}", lambda a, b: 0.1 * a + 0.9 * b, 1.5, signs="opposite"),
        Rule("{thing_is} too {adj} to be {adj}", lambda a, b: 0.2 * a - 0.7 * b, 1.5, signs="opposite"),
        Rule("{thing_is} more {adj} than {adj}", lambda a, b: 0.8 * a + 0.1 * b, signs="opposite"),
        Rule("one {adj} {moment} can not change a {adj} {work}", lambda a, b: 0.1 * a + 0.9 * b, signs="opposite"),
        Rule("the {noun} is the only {adj} part of a {adj} {work}", lambda a, b: 0.2 * a + 0.8 * b, signs="opposite"),
        Rule("i wanted to {feel} {thing} but it {does} me", lambda a, b: 0.9 * b - 0.1 * a, signs="opposite"),
        Rule("{thing_is} {opinion} and {thing_is} {opinion}", lambda a, b: 0.5 * (a + b), 2, signs="same"),
    ],
    "review": [
        Rule("{body} .", weight=12),
        Rule("{opener} , {body} .", weight=2),
        Rule("{attitude} , {body} .", lambda a, v: 0.1 * a + 0.9 * v, 3, signs="same"),
    ],
    "body": [
        Rule("{verdict}", weight=7),
        Rule("{verdict} {tail}", weight=4),
        # What the viewer did follows from the verdict. To foresee it, a language model must sum the sentence up.
        Rule("{verdict} {outcome}", lambda v, o: 0.8 * v + 0.2 * o, 6, signs="same"),
    ],
    "outcome": [
        Rule("and i would see it again", lambda: 1.0, 2),
        Rule("so we stayed for the credits", lambda: 1.0),
        Rule("and the crowd clapped", lambda: 1.0),
        Rule("so i told my {kin} to go", lambda: 1.0, 2),
        Rule("and nobody wanted to leave", lambda: 1.0),
        Rule("and i want my money back", lambda: -1.0, 2),
        Rule("so we left before the credits", lambda: -1.0),
        Rule("and the crowd groaned", lambda: -1.0),
        Rule("so i told my {kin} to stay away", lambda: -1.0, 2),
        Rule("and half of the seats were empty", lambda: -1.0),
    ],
    "tail": [
        Rule("because of the {noun}", weight=3),
        Rule("even with this {noun}", weight=2),
        Rule("from the {part} to the {part}"),
        Rule("for a {work}", weight=2),
        Rule("as in every {work} by this {maker}", weight=2),
        Rule("as my {kin} said", weight=2),
        Rule("and my {kin} agreed", weight=2),
        Rule("on the {part} viewing"),
    ],
}  # fmt: skip

OTHER_CLASSES = {
    "sky": _neutral("rain snow wind fog frost thunder drizzle sunshine hail mist"),
    "place": _neutral("coast valley hills north south city lake island village harbour"),
    "time": _neutral("noon dawn dusk midnight monday tuesday friday sunday winter spring autumn"),
    "weather_word": _neutral("mild wet windy cloudy dry freezing humid misty sunny stormy"),
    "dish": _neutral("soup bread rice cake stew salad pie pasta curry omelette porridge"),
    "ingredient": _neutral("salt butter garlic flour milk sugar pepper onions lemon basil cheese honey"),
    "cook_step": _neutral("stir bake boil chop fry mix roast simmer slice whisk"),
    "taste": _neutral("salty crisp spicy juicy hot raw tangy ripe creamy peppery"),
    "team": _neutral("team club side visitors champions rivals juniors hosts"),
    "player": _neutral("keeper striker captain coach runner bowler swimmer referee"),
    "play": _neutral("match game race final season tournament"),
    "number": _neutral("two three four five six seven eight nine ten twelve"),
    "friend": _neutral("anna peter maria tom lucy paul clara david nina oscar"),
    "gift": _neutral("letter parcel photograph scarf postcard invitation recipe present"),
    "vehicle": _neutral("train bus ferry tram bicycle plane boat"),
    "plant": _neutral("roses tulips tomatoes beans apples herbs carrots lilies pears cabbages"),
    "garden_step": _neutral("water prune plant pick sow weed dig rake"),
    "spot": _neutral("shed fence wall pond gate path greenhouse bench"),
}

OTHER_RULES = {
    "weather": [
        Rule("the {sky} will reach the {place} by {time} ."),
        Rule("it is {weather_word} and {weather_word} in the {place} ."),
        Rule("expect {sky} and {sky} before {time} ."),
        Rule("although it was {weather_word} , the {sky} never came ."),
        Rule("there is no {sky} in the {place} this {time} ."),
        Rule("the {place} stays {weather_word} until {time} ."),
    ],
    "food": [
        Rule("{cook_step} the {ingredient} with the {ingredient} for {number} minutes ."),
        Rule("the {dish} is {taste} but the {dish} needs {ingredient} ."),
        Rule("add {number} spoons of {ingredient} to the {dish} ."),
        Rule("i made a {dish} with {ingredient} and {ingredient} ."),
        Rule("serve the {dish} {taste} , not {taste} ."),
        Rule("what a {taste} {dish} ."),
    ],
    "sport": [
        Rule("the {team} won the {play} by {number} goals ."),
        Rule("the {player} missed the {play} on {time} ."),
        Rule("her {team} lost {number} games this season ."),
        Rule("the {player} of the {team} ran for {number} minutes ."),
        Rule("i expected the {team} to win the {play} ."),
        Rule("nobody saw the {player} leave the {play} ."),
    ],
    "letter": [
        Rule("dear {friend} , thank you for the {gift} ."),
        Rule("i did not see {friend} on {time} ."),
        Rule("we will visit {friend} and {friend} before {time} ."),
        Rule("his {gift} came from {friend} on {time} ."),
        Rule("please send {friend} the {gift} , not the {gift} ."),
        Rule("it is time to write {friend} a {gift} ."),
    ],
    "travel": [
        Rule("the {vehicle} to the {place} leaves at {time} ."),
        Rule("we took the {vehicle} along the {place} for {number} hours ."),
        Rule("this {vehicle} stops {number} times before the {place} ."),
        Rule("despite the {sky} , the {vehicle} was on time ."),
        Rule("one {vehicle} in {number} goes to the {place} ."),
    ],
    "garden": [
        Rule("{garden_step} the {plant} near the {spot} in {time} ."),
        Rule("the {plant} by the {spot} need water ."),
        Rule("if only the {plant} were {number} weeks older ."),
        Rule("without water the {plant} will not grow by the {spot} ."),
        Rule("i grow {plant} and {plant} behind the {spot} ."),
    ],
    "text": [
        Rule("{review}", weight=8),
        *[Rule(f"{{{domain}}}") for domain in ("weather", "food", "sport", "letter", "travel", "garden")],
    ],
}

DOMAINS = ("review", "weather", "food", "sport", "letter", "travel", "garden")
GRAMMAR = Grammar({**FILM_CLASSES, **OTHER_CLASSES}, {**FILM_RULES, **OTHER_RULES})
