"""The text that the demo pair is trained on: conversations written by a small grammar, all of it made here.

A conversation is a list of (role, text). Stories follow one of a few plots; who acts, where, with what, and in which words is
drawn. Draws are uneven and depend on each other (a fox lives in the forest, bread comes from the oven), as in real text, so that
there is something to learn at every distance: the next word, the sentence, the plot, and what was said in the question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Turn = tuple[str, str]

BOYS = ["Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Omar", "Finn", "Hugo", "Peter", "Noah", "Carl"]
GIRLS = ["Anna", "Lily", "Mia", "Rosa", "Nora", "Ella", "Ivy", "Ruth", "Clara", "Maya", "Emma", "Jane"]
# animal: home, food, what it is like
ANIMALS = {
    "dog": ("yard", "bones", "loyal"), "cat": ("kitchen", "fish", "proud"), "fox": ("forest", "berries", "clever"),
    "bear": ("cave", "honey", "strong"), "bird": ("tree", "seeds", "cheerful"), "horse": ("field", "grass", "fast"),
    "rabbit": ("garden", "carrots", "shy"), "mouse": ("barn", "cheese", "tiny"), "frog": ("pond", "flies", "funny"),
    "owl": ("tower", "mice", "wise"), "duck": ("river", "bread", "kind"), "goat": ("hill", "leaves", "stubborn"),
    "cow": ("meadow", "grass", "calm"), "wolf": ("mountain", "meat", "brave"), "turtle": ("beach", "plants", "slow"),
    "lion": ("desert", "meat", "proud"), "pig": ("farm", "apples", "happy"), "bee": ("flower", "nectar", "busy"),
    "whale": ("ocean", "fish", "gentle"), "sheep": ("hill", "grass", "quiet"),
}  # fmt: skip
# thing: what it is made of, what it is for
THINGS = {
    "ball": ("rubber", "play"), "boat": ("wood", "sail"), "book": ("paper", "read"), "kite": ("paper", "fly"),
    "hat": ("cloth", "wear"), "key": ("iron", "open the gate"), "lamp": ("glass", "see at night"), "drum": ("leather", "make music"),
    "bell": ("silver", "call everyone"), "map": ("paper", "find the way"), "coat": ("wool", "keep warm"),
    "basket": ("straw", "carry fruit"), "ring": ("gold", "wear"), "rope": ("cotton", "climb"), "clock": ("brass", "tell the time"),
    "cup": ("clay", "drink"), "box": ("wood", "keep secrets"), "wagon": ("wood", "carry stones"), "ladder": ("wood", "climb"),
    "blanket": ("wool", "sleep"), "violin": ("wood", "make music"), "mirror": ("glass", "look at the stars"),
}  # fmt: skip
COLORS = ["red", "blue", "green", "yellow", "white", "brown", "black", "golden", "purple", "gray"]
SIZES = ["little", "big", "small", "round", "new", "tiny", "beautiful", "strange", "heavy", "broken"]
PLACES = {
    "forest": "tall trees", "garden": "bright flowers", "village": "narrow streets", "river": "clear water", "hill": "soft grass",
    "beach": "warm sand", "market": "loud voices", "mountain": "deep snow", "lake": "silver fish", "farm": "fat hens",
    "city": "busy people", "castle": "stone walls", "school": "happy children", "meadow": "wild flowers", "harbor": "white ships",
    "library": "dusty shelves", "island": "round shells", "valley": "quiet roads",
}  # fmt: skip
WEATHER = {
    "sunny": "The sun was shining and the sky was blue.", "rainy": "The rain fell softly on the roof.",
    "windy": "The wind blew hard and the leaves danced.", "cold": "The air was cold and snow covered the ground.",
    "warm": "The air was warm and bees hummed in the grass.", "foggy": "The fog was thick and nobody could see far.",
    "stormy": "Dark clouds came and thunder rolled over the land.",
}  # fmt: skip
TIMES = ["morning", "evening", "day", "afternoon", "night"]
SEASONS = {"spring": "the first flowers opened", "summer": "the days were long", "autumn": "the leaves turned red", "winter": "the snow fell"}
FAMILY = ["mother", "father", "sister", "brother", "grandmother", "grandfather", "uncle", "aunt", "friend", "teacher", "neighbor"]
MORALS = {
    "lost": ["It is good to ask for help.", "Those who keep looking will find.", "A friend is worth more than a treasure."],
    "help": ["Even the smallest can help the largest.", "Kindness always comes back.", "Nobody is too small to be brave."],
    "race": ["Slow and steady wins the day.", "It is more fun to run together.", "Pride comes before a fall."],
    "build": ["Many hands make light work.", "Good things take time.", "If it breaks, you can build it again."],
    "fear": ["What we fear is often small.", "It is fine to be afraid.", "Courage grows when we use it."],
    "share": ["Food tastes better with friends.", "Who shares will never be alone.", "A full heart is better than a full plate."],
}  # fmt: skip

FACTS = {
    "rain": ["Rain is water that falls from the clouds.", "The sun warms the sea, and the water rises as steam.", "High in the cold air the steam turns into small drops.", "When the drops are heavy, they fall to the ground."],
    "a bridge": ["A bridge is a road over a river or a valley.", "It is made of stone, wood or steel.", "Strong arches carry the weight to the ground.", "Without bridges people would need boats."],
    "the moon": ["The moon is a ball of rock that circles the earth.", "It has no light of its own.", "It shines because the sun shines on it.", "It takes about a month to go around us."],
    "bread": ["Bread is food made from flour, water and salt.", "Yeast makes the dough rise.", "The baker puts it into a hot oven.", "Fresh bread smells good and tastes even better."],
    "a clock": ["A clock is a machine that tells the time.", "Small wheels turn the hands.", "The short hand shows the hour and the long hand shows the minute.", "Old clocks must be wound every day."],
    "snow": ["Snow is frozen water that falls from the clouds.", "Every flake has six sides.", "It covers the ground like a white blanket.", "When the air gets warm, the snow melts."],
    "a tree": ["A tree is a tall plant with a trunk of wood.", "Its roots drink water from the soil.", "Its leaves catch the light of the sun.", "Birds build their nests in its branches."],
    "the sea": ["The sea is a very large body of salt water.", "It covers most of the earth.", "Fish, whales and plants live in it.", "The moon pulls the water and makes the tides."],
    "a school": ["A school is a place where children learn.", "A teacher shows them how to read and count.", "They sit at tables and write in books.", "After the lessons they play outside."],
    "the wind": ["Wind is air that moves.", "It blows when warm air rises and cold air takes its place.", "It fills the sails of ships and turns mills.", "A strong wind can become a storm."],
    "a river": ["A river is water that flows through the land.", "It begins as a small spring in the hills.", "It grows when other streams join it.", "In the end it reaches the sea."],
    "fire": ["Fire is heat and light that come from burning wood.", "It needs air to burn.", "It warms the house and cooks the food.", "Never leave a fire alone."],
    "honey": ["Honey is sweet food made by bees.", "They fly from flower to flower and gather nectar.", "They keep it in small cells of wax.", "Bears and children like it very much."],
    "a letter": ["A letter is a message written on paper.", "You put it into an envelope and write the address.", "A postman carries it to the door.", "A good letter makes the reader smile."],
    "a star": ["A star is a very large ball of hot gas.", "It is so far away that it looks tiny.", "The sun is the star that is nearest to us.", "Sailors once used the stars to find the way."],
    "music": ["Music is sound that people make for joy.", "Some sing and some play the drum or the violin.", "A melody goes up and down like a path over hills.", "Good music makes people dance."],
    "an engine": ["An engine is a machine that makes things move.", "It burns fuel or uses electric power.", "It turns the wheels of a car or a train.", "A good engine is quiet and strong."],
    "a test": ["A test is a question whose answer we know.", "It tells us whether a machine works.", "If the test fails, we look for the reason.", "A test that cannot fail tells us nothing."],
}  # fmt: skip

RECIPES = {
    "bake bread": ["mix flour, water and salt", "wait until the dough rises", "form a round loaf", "put it into the hot oven"],
    "plant a tree": ["dig a deep hole", "set the young tree into it", "fill the hole with soil", "give it plenty of water"],
    "build a kite": ["cut two thin sticks", "tie them into a cross", "cover them with paper", "fasten a long string"],
    "make soup": ["wash the carrots and the onions", "cut them into small pieces", "boil them in water with salt", "taste it and add some pepper"],
    "draw a cat": ["draw a big circle for the body", "draw a small circle for the head", "add two ears and a tail", "give it eyes and a smile"],
    "wash a dog": ["fill a tub with warm water", "rub soap into the fur", "rinse it with clean water", "dry it with a soft towel"],
    "make tea": ["boil some water", "put the leaves into a cup", "pour the water over them", "wait three minutes"],
    "write a letter": ["take a clean sheet of paper", "write the name of your friend", "tell what happened this week", "put it into an envelope"],
    "clean a room": ["open the window", "pick up the toys", "wipe the dust from the shelves", "sweep the floor"],
    "light a fire": ["gather dry wood", "build a small tower of sticks", "put straw under it", "light the straw with a match"],
    "measure a server": ["start the engine and wait", "send some requests to warm it up", "send many requests and write down the times", "stop the engine and compare the numbers"],
}  # fmt: skip

SYSTEM = [
    "You are a kind teller of stories.",
    "You are a helpful friend. Answer with short sentences.",
    "You write for children.",
    "Be brief and clear.",
]


class Writer:
    """Draws conversations; the same seed writes the same text."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)  # noqa: S311  # reproducible, not secret

    def conversation(self) -> list[Turn]:
        """One to four questions with their answers, sometimes after a system turn."""
        turns: list[Turn] = [("system", self._pick(SYSTEM))] if self._chance(0.15) else []
        kinds = (self._story, self._story, self._continued, self._fact, self._how_to, self._scene, self._recall)
        for _ in range(self._rng.choices((1, 2, 3, 4), (2, 4, 3, 1))[0]):
            question, answer = self._rng.choice(kinds)()
            turns += [("user", question), ("assistant", answer)]
        return turns

    def question(self) -> str:
        """What a user says first."""
        return next(text for role, text in self.conversation() if role == "user")

    def passage(self) -> str:
        """A story as it stands in a book."""
        return self._story()[1]

    def draw(self, options: Sequence[int]) -> int:
        """One of some numbers."""
        return self._rng.choice(options)

    # ------------------------------------------------------------------------------------------------------------ draws
    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _pick(self, options: Sequence[str]) -> str:
        """Earlier ones are likelier."""
        return self._rng.choices(options, [1 / (index + 1.5) for index in range(len(options))])[0]

    def _any(self, options: Sequence[str]) -> str:
        return self._rng.choice(options)

    def _cast(self) -> dict[str, str]:
        """Everything that a story may name."""
        girl = self._chance(0.5)
        name = self._any(GIRLS if girl else BOYS)
        other_girl = self._chance(0.5)
        other = self._any([each for each in (GIRLS if other_girl else BOYS) if each != name])
        animal = self._any(list(ANIMALS))
        home, food, trait = ANIMALS[animal]
        thing = self._any(list(THINGS))
        material, use = THINGS[thing]
        place = home if home in PLACES and self._chance(0.6) else self._any(list(PLACES))
        return {
            "name": name, "he": "she" if girl else "he", "He": "She" if girl else "He", "him": "her" if girl else "him",
            "his": "her" if girl else "his", "His": "Her" if girl else "His", "kid": "girl" if girl else "boy",
            "other": other, "She": "She" if other_girl else "He", "she": "she" if other_girl else "he",
            "animal": animal, "an": _article(animal), "An": _article(animal).capitalize(), "home": home, "food": food, "trait": trait,
            "thing": thing, "material": material, "use": use, "color": self._pick(COLORS), "size": self._pick(SIZES),
            "place": place, "sight": PLACES[place], "time": self._pick(TIMES), "kin": self._pick(FAMILY),
            "season": self._any(list(SEASONS)), "weather": self._any(list(WEATHER)),
        }  # fmt: skip

    def _say(self, cast: dict[str, str], *templates: str) -> str:
        return self._pick(templates).format_map(cast)

    # ---------------------------------------------------------------------------------------------------------- stories
    def _story(self) -> tuple[str, str]:
        cast = self._cast()
        plot = self._any(list(MORALS))
        beats = getattr(self, f"_plot_{plot}")(cast)
        story = [self._opening(cast, plot), *beats]
        if self._chance(0.35):
            story.insert(1, WEATHER[cast["weather"]])
        if self._chance(0.6):
            story.append(self._pick(MORALS[plot]))
        return self._story_request(cast, plot), " ".join(story)

    def _story_request(self, cast: dict[str, str], plot: str) -> str:
        about = {
            "lost": "{name}, who lost {his} {thing}", "help": "{name} and {an} {animal}", "race": "a race between {an} {animal} and {name}",
            "build": "{name}, who wants to build a {thing}", "fear": "{name}, who is afraid of the {place}", "share": "{name}, who shares {his} food",
        }[plot]  # fmt: skip
        return self._say(
            cast,
            f"Tell me a story about {about}.",
            f"Write a short story about {about}.",
            f"Please tell me about {about}.",
            f"I want to hear a story about {about}. It happens near a {{place}}.",
            f"Can you write about {about}?",
        )

    def _opening(self, cast: dict[str, str], plot: str) -> str:
        if plot == "help" and self._chance(0.4):
            return self._say(
                cast,
                "Once there was a {trait} {animal} who lived in a {home}.",
                "In a {home} there lived a {trait} {animal}.",
            )
        return self._say(
            cast,
            "Once upon a time there was a {kid} named {name} who lived near a {place}.",
            "{name} was a {kid} who lived in a {size} house by the {place}.",
            "One {time} {name} went to the {place} with {his} {kin}.",
            "Long ago, in a {place} with {sight}, there lived a {kid} named {name}.",
            "It was {season}, and {name} was walking through the {place}.",
        )

    def _plot_lost(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{He} had a {color} {thing} made of {material}.", "{His} {kin} had given {him} a {color} {thing} made of {material}."),
            self._say(cast, "{He} used it to {use} every {time}.", "{name} loved the {thing} more than anything."),
            self._say(cast, "But one {time} the {thing} was gone.", "Then, on a {weather} day, {he} lost the {thing}.", "One {time} {he} looked for the {thing} and could not find it."),
            self._say(cast, "{name} looked under the bed, behind the door and in the garden.", "{He} looked everywhere, but it was not there.", "{name} began to cry."),
            self._say(cast, "{An} {animal} saw {him} and asked: Why are you so sad?", "{other} came by and asked what was wrong."),
            self._say(cast, "I lost my {color} {thing}, said {name}.", "{name} told the whole story."),
            self._say(cast, "Together they went to the {place} and looked among the {sight}.", "They followed the path to the {place} and asked everyone."),
            self._say(cast, "There, under a {size} stone, lay the {color} {thing}.", "At last they found the {thing} near the {home}.", "The {thing} was hanging in a tree all the time."),
            self._say(cast, "{name} was so happy that {he} danced.", "{name} laughed and said thank you.", "From that day on {name} took good care of the {thing}."),
        ]  # fmt: skip

    def _plot_help(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "One {time} {name} heard a small voice near the {home}.", "One {weather} {time} {name} walked past the {home}."),
            self._say(cast, "It was {an} {animal} that was caught in a {size} net.", "{An} {animal} sat there with a thorn in its foot.", "It was {an} {animal} that had lost its way."),
            self._say(cast, "Please help me, said the {animal}.", "The {animal} was tired and hungry."),
            self._say(cast, "{name} was afraid at first, but {he} came closer.", "{name} did not wait a moment."),
            self._say(cast, "{He} gave it some {food} and a cup of water.", "{He} worked until the {animal} was free.", "{He} covered it with {his} {color} coat."),
            self._say(cast, "The {animal} thanked {him} and ran back to the {home}.", "I will not forget you, said the {animal}."),
            self._say(cast, "In the {season} {name} lost the way in the {place}.", "Some days later {name} fell into the water near the {place}.", "When {season} came, {name} was alone in the {place}."),
            self._say(cast, "Then the {trait} {animal} came and showed {him} the way home.", "The {animal} heard {him} and pulled {him} out.", "Suddenly the {animal} stood before {him} with a {color} {thing}."),
            self._say(cast, "Since that day {name} and the {animal} have been friends.", "They walked home together, and {his} {kin} made soup for both."),
        ]  # fmt: skip

    def _plot_race(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "A {trait} {animal} lived there too, and it was very proud.", "{An} {animal} from the {home} laughed at {him}."),
            self._say(cast, "I am faster than you, said the {animal}.", "Nobody can run like me, said the {animal}."),
            self._say(cast, "Let us run to the {place} and back, said {name}.", "Then let us see who is first at the {place}, said {name}."),
            self._say(cast, "{other} counted to three, and they began.", "The whole village came to watch."),
            self._say(cast, "The {animal} was soon far ahead and stopped to eat some {food}.", "The {animal} ran so fast that it did not see the {size} stone.", "Halfway the {animal} lay down to sleep."),
            self._say(cast, "{name} went on, step by step, past the {sight}.", "{name} did not stop, even when it was hard."),
            self._say(cast, "When the {animal} looked up, {name} was already there.", "In the end {name} was first by a nose.", "But {name} turned around and helped the {animal} up."),
            self._say(cast, "{other} gave {him} a {color} {thing} as a prize.", "Everyone cheered and {other} rang a bell."),
            self._say(cast, "The {animal} was not so proud any more.", "They shared the {food} and laughed about it."),
        ]  # fmt: skip

    def _plot_build(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{name} wanted to have a {color} {thing}, but {he} had no money.", "All the children had a {thing}, only {name} had none."),
            self._say(cast, "Then I will make one, {he} said.", "{His} {kin} said: Why do you not build one?"),
            self._say(cast, "{He} went to the {place} to find some {material}.", "{other} brought {him} {material} from the {place}."),
            self._say(cast, "First {he} drew a plan on a piece of paper.", "First {he} measured everything twice."),
            self._say(cast, "Then {he} cut the {material} and put the parts together.", "Then {other} held the parts while {name} worked."),
            self._say(cast, "It broke, and {name} was sad.", "The first one was too {size}.", "On the {weather} day it fell apart."),
            self._say(cast, "Try again, said {other}.", "{An} {animal} watched and shook its head.", "But {he} did not give up."),
            self._say(cast, "After three days the {thing} was ready, and it was {color} and beautiful.", "At last it worked, and {name} painted it {color}."),
            self._say(cast, "Now {he} could {use} as much as {he} liked.", "{His} {kin} was very proud of {him}.", "The next day {he} made one more for {other}."),
        ]  # fmt: skip

    def _plot_fear(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{name} was afraid of the {place}, because it was dark there.", "People said that a {size} monster lived in the {place}."),
            self._say(cast, "Every {time} {he} heard a strange sound.", "At {time} a strange light was moving there."),
            self._say(cast, "One day {his} {kin} asked {him} to bring a {thing} from the {place}.", "One {weather} {time} {his} {color} {thing} flew into the {place}."),
            self._say(cast, "{name} took a lamp and went slowly, step by step.", "{name} held the hand of {other} and opened the gate."),
            self._say(cast, "{His} heart was beating fast.", "It was so quiet that {he} could hear {his} heart."),
            self._say(cast, "Who is there? asked {name}.", "Something moved between the {sight}."),
            self._say(cast, "It was only {an} {animal} that was looking for {food}.", "Out came {an} {animal}, and it was more afraid than {he} was."),
            self._say(cast, "{name} laughed and gave it some {food}.", "Do not be afraid, said {name} to the {animal}."),
            self._say(cast, "After that {name} went to the {place} every {time}.", "Now {name} knows that the {place} is full of friends."),
        ]  # fmt: skip

    def _plot_share(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{His} {kin} gave {him} a {size} basket full of {food}.", "{name} had only a piece of bread and some {food}."),
            self._say(cast, "On the way {he} met {an} {animal}.", "At the {place} {an} {animal} was sitting in the grass."),
            self._say(cast, "I have not eaten for two days, said the {animal}.", "The {animal} looked at the {food} and said nothing."),
            self._say(cast, "Take half of it, said {name}.", "{name} thought about it for a moment and gave it the larger part."),
            self._say(cast, "A little later {other} came, and {she} was hungry too.", "Then {other} came along the road with an empty bag."),
            self._say(cast, "So they sat down under a tree and ate together.", "Again {name} shared what was left."),
            self._say(cast, "The {animal} sang a song, and {other} told a joke.", "The {animal} ran to the {home} and came back with a {color} {thing}."),
            self._say(cast, "When {name} came home, the basket was full again.", "In the evening {name} was still hungry, but {he} was happy."),
            self._say(cast, "{His} {kin} smiled and cooked soup for all of them.", "Nobody knows how that happened."),
        ]  # fmt: skip

    def _continued(self) -> tuple[str, str]:
        """A story, or several, up to some word; the answer goes on from there."""
        before = [self.passage() for _ in range(self._rng.choices((0, 1, 2, 4), (6, 2, 1, 1))[0])]
        words = self.passage().split(" ")
        cut = self._rng.randrange(4, len(words) - 3)
        asked = self._pick(["Go on with this story.", "", "Here is a story. What happens next?", "Please finish this story."])
        text = " ".join([asked, *before, *words[:cut]]).strip()
        return text, " ".join(words[cut:])

    # ---------------------------------------------------------------------------------------------------- other answers
    def _fact(self) -> tuple[str, str]:
        topic = self._any(list(FACTS))
        first, *others = FACTS[topic]
        for _ in range(self._rng.choice((0, 0, 1))):
            others.pop(self._rng.randrange(len(others)))
        cast = {"topic": topic}
        question = self._say(cast, "What is {topic}?", "Please explain {topic} to me.", "Tell me about {topic}.", "What do you know about {topic}?")
        start = self._pick(["", "That is a good question. ", "I will explain it. "])
        return question, start + " ".join([first, *others]) + self._pick(["", " Do you want to know more?"])

    def _how_to(self) -> tuple[str, str]:
        task = self._any(list(RECIPES))
        one, two, three, four = RECIPES[task]
        question = self._say({"task": task}, "How do I {task}?", "Can you tell me how to {task}?", "I want to {task}. What do I do?")
        lead = self._say({"task": task}, "It is easy to {task}.", "You can {task} in four steps.", "Let us {task} together.")
        steps = f"First {one}. Then {two}. After that, {three}. Finally, {four}."
        return question, f"{lead} {steps} " + self._pick(["Now you are done.", "That is all.", "Good luck!", "Enjoy it!"])

    def _scene(self) -> tuple[str, str]:
        cast = self._cast()
        happened = SEASONS[cast["season"]]
        question = self._say(cast, "Describe a {weather} {time} at the {place}.", "What does the {place} look like in {season}?", "Describe the {place} in {season}.")
        parts = [
            self._say(cast, "The {place} is full of {sight}.", "In {season} the {place} is a quiet place with {sight}."),
            WEATHER[cast["weather"]],
            self._say({**cast, "happened": happened}, "It was {season}, and {happened}.", "Everyone knew that it was {season}, because {happened}."),
            self._say(cast, "{An} {animal} was looking for {food}.", "A {kid} with a {color} {thing} was walking along the road.", "Near the {home} {an} {animal} was sleeping."),
            self._say(cast, "Far away somebody was singing.", "A {size} {thing} lay in the grass.", "It smelled of bread and wood."),
        ]  # fmt: skip
        return question, " ".join(parts)

    def _recall(self) -> tuple[str, str]:
        """Something is said, and asked for again."""
        cast, other = self._cast(), self._cast()
        told = [
            self._say(cast, "{name} has a {color} {thing} made of {material}.", "The {color} {thing} belongs to {name}."),
            f"{cast['other']} lives near the {cast['place']} and likes the {other['animal']}.",
        ]
        asks = [
            ("What does {name} have?", "{name} has a {color} {thing}."),
            ("What color is the {thing}?", "The {thing} of {name} is {color}."),
            ("Where does {other} live?", "{other} lives near the {place}."),
            ("Who has a {thing}?", "It is {name} who has a {thing}."),
        ]
        question, answer = self._rng.choice(asks)
        self._rng.shuffle(told)
        more = self._say(cast, "", " I remember it well.", " Is there anything else?")
        return " ".join([*told, question.format_map(cast)]), answer.format_map(cast) + more


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
